"""Paths as users write them."""

import fsspec
from etils import epath

# What another process writes to an object store is seen at once, and a file that it has written anew is read whole.
for _protocol in ("gs", "gcs", "s3", "az", "abfs"):
    fsspec.config.conf.setdefault(_protocol, {}).setdefault("use_listings_cache", False)


def is_storage_error(error: Exception) -> bool:
    """Whether a disk or an object store has failed; the clients of the latter have errors of their own."""
    return isinstance(error, OSError) or type(error).__module__.partition(".")[0] in ("aiohttp", "gcsfs", "google")


def absolute(path: str | epath.Path) -> epath.Path:
    """`~` and what is relative made absolute; gs://... is (and etils would take it for a local folder)."""
    found = epath.Path(path).expanduser()
    return found if "://" in str(path) else found.resolve()
