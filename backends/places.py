"""Where a user's files lie on each platform: configuration, data, and what other tools fetched."""

import os
from collections.abc import Mapping
from pathlib import Path


def user_folder(platform: str, environ: Mapping[str, str], *, config: bool) -> Path | None:
    """Return this user's folder for configuration or data; None where there is no home."""
    # The XDG base directories; macOS keeps both kinds in Application Support.
    variable = "XDG_CONFIG_HOME" if config else "XDG_DATA_HOME"
    if platform != "darwin" and Path(environ.get(variable, "")).is_absolute():
        return Path(environ[variable]) / "signalbox"
    # Without HOME the password database is asked; a user may be in neither.
    home = environ.get("HOME") or os.path.expanduser("~")  # noqa: PTH111 Path.home() raises instead
    if not Path(home).is_absolute():
        return None
    if platform == "darwin":
        return Path(home) / "Library/Application Support/signalbox"
    return Path(home) / (".config" if config else ".local/share") / "signalbox"


def hub_caches(environ: Mapping[str, str]) -> tuple[Path, ...]:
    """Return where huggingface_hub keeps models, by its own variables."""
    if "HF_HUB_CACHE" in environ:
        return (Path(environ["HF_HUB_CACHE"]),)
    if "HF_HOME" in environ:
        return (Path(environ["HF_HOME"]) / "hub",)
    home = environ.get("XDG_CACHE_HOME") or str(Path("~/.cache").expanduser())
    return (Path(home) / "huggingface" / "hub",)
