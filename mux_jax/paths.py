"""Paths as users write them."""

import fsspec
from etils import epath

# What another process writes to an object store is seen at once, and a file that it has written anew is read whole.
for _protocol in ("gs", "gcs", "s3", "az", "abfs"):
    fsspec.config.conf.setdefault(_protocol, {}).setdefault("use_listings_cache", False)


def absolute(path: str | epath.Path) -> epath.Path:
    """`~` and what is relative made absolute; gs://... is (and etils would take it for a local folder)."""
    found = epath.Path(path).expanduser()
    return found if "://" in str(path) else found.resolve()
