"""What survives a restart, as tables in SQLite. Never on the path of a request."""

import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from sqlalchemy import URL, Engine, UniqueConstraint, event
from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import Field, Session, SQLModel, create_engine, select

from router import stored_providers
from router.capabilities import Capability
from router.learned import Verdict
from router.overrides import SCHEMA_VERSION, TABLE, Override, StoreError, check_version
from router.stored_providers import StoredProvider
from router.stored_verdicts import TABLE as FACT_TABLE

_BUSY_S = 5


class CapabilityAssignment(SQLModel, table=True):
    """One capability's models, as somebody assigned them at run time."""

    __tablename__ = TABLE

    id: int | None = Field(default=None, primary_key=True)
    capability: str = Field(unique=True)
    models: str
    since: str


class AddedProvider(SQLModel, table=True):
    """One provider, as somebody added it at run time; `settings` is JSON, its key a reference."""

    __tablename__ = stored_providers.TABLE

    id: int | None = Field(default=None, primary_key=True)
    name: str = Field(unique=True)
    settings: str
    since: str


class ModelFact(SQLModel, table=True):
    """What a probe has shown of one capability of a model; no value where it showed nothing."""

    __tablename__ = FACT_TABLE
    __table_args__ = (UniqueConstraint("model", "capability"),)

    id: int | None = Field(default=None, primary_key=True)
    model: str
    capability: str
    value: bool | None = None
    date: str
    why: str


class Store:
    """The tables in `database`, a file that only its owner may read."""

    def __init__(self, database: Path) -> None:
        self._database = database
        self._engine: Engine | None = None

    def __repr__(self) -> str:
        return f"<Store {'open' if self._engine else 'closed'}>"

    def save_assignment(self, capability: Capability, models: tuple[str, ...]) -> Override:
        """Store an assignment in place of the one before; StoreError when that is not possible."""
        override = Override(models, datetime.now(UTC).isoformat(timespec="seconds"))
        with _Writing(self._opened()) as session:
            row = session.exec(_by_capability(capability)).one_or_none()
            if row is None:
                row = CapabilityAssignment(capability=capability, models="", since="")
            row.models = json.dumps(models)
            row.since = override.since
            session.add(row)
        return override

    def delete_assignment(self, capability: Capability) -> None:
        """Forget an assignment; StoreError when that is not possible."""
        with _Writing(self._opened()) as session:
            row = session.exec(_by_capability(capability)).one_or_none()
            if row is not None:
                session.delete(row)

    def save_provider(self, name: str, provider: StoredProvider) -> None:
        """Store a provider in place of the one before; StoreError when that is not possible."""
        with _Writing(self._opened()) as session:
            row = session.exec(_by_name(name)).one_or_none()
            if row is None:
                row = AddedProvider(name=name, settings="", since="")
            row.settings = json.dumps(provider.settings)
            row.since = provider.since
            session.add(row)

    def delete_provider(self, name: str) -> None:
        """Forget a provider; StoreError when that is not possible."""
        with _Writing(self._opened()) as session:
            row = session.exec(_by_name(name)).one_or_none()
            if row is not None:
                session.delete(row)

    def save_verdicts(self, model: str, verdicts: Mapping[str, Verdict]) -> None:
        """Store verdicts, in place of older ones; StoreError when that is not possible."""
        with _Writing(self._opened()) as session:
            old = {row.capability: row for row in session.exec(_facts_of(model))}
            for capability, verdict in verdicts.items():
                row = old.get(capability) or ModelFact(
                    model=model, capability=capability, date="", why=""
                )
                row.value, row.date, row.why = verdict.value, verdict.date, verdict.why
                session.add(row)

    def delete_verdicts(self, model: str) -> None:
        """Forget a model's verdicts; StoreError when that is not possible."""
        with _Writing(self._opened()) as session:
            for row in session.exec(_facts_of(model)):
                session.delete(row)

    def close(self) -> None:
        """Close the database."""
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None

    def _opened(self) -> Engine:
        """Open the database on first use: SQLite would else create it before there is a need."""
        if self._engine is None:
            self._engine = _open(self._database)
        return self._engine


def _by_capability(capability: Capability):  # type: ignore[no-untyped-def]  # noqa: ANN202 SQLModel's own generic
    return select(CapabilityAssignment).where(CapabilityAssignment.capability == capability)


def _by_name(name: str):  # type: ignore[no-untyped-def]  # noqa: ANN202 likewise
    return select(AddedProvider).where(AddedProvider.name == name)


def _facts_of(model: str):  # type: ignore[no-untyped-def]  # noqa: ANN202 SQLModel's own generic
    return select(ModelFact).where(ModelFact.model == model)


class _Writing:
    """A transaction that is committed on leaving; what SQLAlchemy raises becomes StoreError."""

    def __init__(self, engine: Engine) -> None:
        self._session = Session(engine)

    def __enter__(self) -> Session:
        return self._session

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self._session.commit()
        except SQLAlchemyError as failure:
            raise _unusable(failure) from failure
        finally:
            self._session.close()
        if isinstance(error, SQLAlchemyError):
            raise _unusable(error) from error


def _unusable(error: SQLAlchemyError) -> StoreError:
    cause = getattr(error, "orig", None) or error
    return StoreError(f"The change could not be stored: {cause}. Nothing was changed.")


def _open(database: Path) -> Engine:
    try:
        # Made by us, since SQLite gives its journals the mode that the database has.
        os.close(os.open(database, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise StoreError(f"{database} cannot be written: {error.strerror}.") from error
    # Not as text: in an address `?`, `#` and `%` would mean something.
    engine = create_engine(
        URL.create("sqlite", database=str(database)),
        connect_args={"timeout": _BUSY_S, "check_same_thread": False},
    )

    @event.listens_for(engine, "connect")
    def _prepare(connection, _record) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001 the driver's
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")

    try:
        with engine.begin() as connection:
            version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
            check_version(version, database)
            SQLModel.metadata.create_all(connection)
            connection.exec_driver_sql(f"PRAGMA user_version = {SCHEMA_VERSION}")
    except SQLAlchemyError as error:
        engine.dispose()
        raise _unusable(error) from error
    return engine
