"""Paths as users write them."""

import glob
import os
from collections.abc import Iterator
from typing import Self

import fsspec
from etils import epath

# What another process writes to an object store is seen at once, and a file that it has written anew is read whole.
for _protocol in ("gs", "gcs", "s3", "az", "abfs"):
    fsspec.config.conf.setdefault(_protocol, {}).setdefault("use_listings_cache", False)


class LiteralPath(type(epath.Path("."))):  # type: ignore[misc]
    """A path whose own [, ], * and ? are no patterns, for Orbax and others that look for files below it.

    etils globs under the path as it stands. In a folder called `[work]` Orbax finds none of what it has written, and
    says nothing.
    """

    def glob(self, pattern: str) -> Iterator[Self]:
        for found in epath.Path(glob.escape(os.fspath(self))).glob(pattern):
            yield type(self)(found)


def absolute(path: str | epath.Path) -> epath.Path:
    """`~` and what is relative made absolute; gs://... is (and etils would take it for a local folder)."""
    found = LiteralPath(path).expanduser()
    return found if "://" in str(path) else found.resolve()
