"""What every section of the file has in common."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """One section of the file: frozen, and an unknown key in it is an error."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, defer_build=True
    )
