"""What may be done for a picture that a request names, and how large it may be."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from router.settings import Settings

_MB = 1_000_000


@dataclass(frozen=True, slots=True)
class Rules:
    """The settings of `images`: `roots` are folders, `max_pixels` counts those of all frames."""

    roots: tuple[Path, ...] = ()
    remote_fetch: bool = False
    files_to_cloud: bool = False
    max_bytes: int = 20 * _MB
    max_pixels: int = 50 * _MB

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Return the rules of a configuration."""
        images = settings.images
        return cls(
            roots=images.local_roots,
            remote_fetch=images.remote_fetch,
            files_to_cloud=images.allow_local_files_to_cloud,
            max_bytes=images.max_mb * _MB,
            max_pixels=images.max_megapixels * _MB,
        )
