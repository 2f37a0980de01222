"""What a command gets: its options, the environment, and settings that are read when needed."""

from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from router.keys import KeyReferenceError, resolve
from router.settings import Server, Settings, SettingsError, load, load_server

_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 compared with, not bound to


@dataclass(frozen=True)
class Call:
    """One call of the command line."""

    options: Namespace
    environ: Mapping[str, str]

    @cached_property
    def settings(self) -> Settings:
        """The settings that a router started with the same options would have.

        Raises SettingsError when they cannot be used.
        """
        return load(self.options.config, self._overrides, self.environ)

    @property
    def _overrides(self) -> dict[str, Any]:
        options = self.options
        return {
            "server": {
                "host": getattr(options, "host", None),
                "port": getattr(options, "port", None),
            },
            "data_dir": None if options.data_dir is None else Path.cwd() / options.data_dir,
        }

    @cached_property
    def _server(self) -> Server:
        """Where the settings say that a router is: faults elsewhere in them do not hide it.

        Raises SettingsError when they do not say even that.
        """
        try:
            return self.settings.server
        except SettingsError:
            server = load_server(self.options.config, self._overrides, self.environ)
            if server is None:
                raise
            return server

    @cached_property
    def url(self) -> str:
        """Where the running router is: `--url`, else the address in the settings."""
        if self.options.url is not None:
            return str(self.options.url).rstrip("/").removesuffix("/v1")
        return self.url_at(self._server.port)

    def url_at(self, port: int) -> str:
        """Return the address of a router that listens on this port of the configured host."""
        host = self._server.host
        host = _EVERYWHERE.get(host, host)
        return f"http://{f'[{host}]' if ':' in host else host}:{port}"

    @cached_property
    def api_key(self) -> str | None:
        """The key to show: `--api-key`, SIGNALBOX_API_KEY, else this machine's own admin key.

        The settings' key is for the settings' router only: it never goes to another `--url`.
        """
        given = self.options.api_key or self.environ.get("SIGNALBOX_API_KEY")
        if given or self.options.url is not None:
            return given
        reference = self._server.admin_key
        try:
            return None if reference is None else resolve(reference, self.environ)
        except KeyReferenceError:
            return None  # the router will say that a key is missing
