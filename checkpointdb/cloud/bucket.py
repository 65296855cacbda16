"""A prefix of a bucket, or a folder: its objects, by name. Knows `obstore`; knows no store.

What `obstore` raises becomes a `BucketError` here, and nowhere else. It tries again by itself for
some seconds; whoever calls decides what to do then. No method holds a lock.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import urllib.parse
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Any

import msgspec

from ..errors import BucketError, StoreVersionError
from .names import Name, digest

MANIFEST = "checkpointdb.json"
FORMAT = 1
SCHEMES = ("s3", "s3a", "gs", "az", "azure", "abfs", "abfss", "adl", "https", "file")
_RETRY: Any = {"max_retries": 3, "retry_timeout": timedelta(seconds=15)}

_user: int | None = None  # the process that has obstore's threads; a request without them hangs


class Manifest(msgspec.Struct, frozen=True):
    """What says that a prefix is one of ours, and which. Written once."""

    format: int
    id: str


class Bucket:
    """A prefix of a bucket; making one asks nobody anything.

    Args:
        url: `s3://bucket/prefix`, `gs://…`, `az://…`, or `file:///folder`. Credentials come from
            the environment, as `obstore` reads them.

    Raises:
        ImportError: the extra `cloud` is not installed.
        ValueError: not such a URL.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._folder = _checked(url)
        try:
            import obstore.store  # noqa: F401
        except ImportError as error:
            raise ImportError(
                f"{url}: buckets need obstore: pip install 'checkpointdb[cloud]'"
            ) from error

    @functools.cached_property
    def _objects(self) -> Any:
        with self._mapped():
            return _opened(self.url, self._folder)

    def manifest(self, create: bool = False) -> Manifest | None:
        """Return what the prefix says of itself, None if it is empty and `create` is not given.

        Raises:
            BucketError: there are objects, and they are not ours.
            StoreVersionError: a newer version made it.
        """
        if self._folder is not None and not os.path.lexists(self._folder):
            if not create:
                return None
            with self._mapped():
                os.makedirs(self._folder, mode=0o700, exist_ok=True)
        found = self._read(MANIFEST)
        if found is None and (other := self._any_object()) is not None:
            found = self._read(MANIFEST)  # another process may have begun since we asked
            if found is None:
                raise self._foreign(f"{other!r} is there, and no {MANIFEST}")
        if found is None:
            if not create:
                return None
            made = Manifest(FORMAT, os.urandom(16).hex())
            if self._create(MANIFEST, msgspec.json.encode(made)):
                return made
            found = self._read(MANIFEST)  # somebody else was faster
        return self._decoded(found or b"")

    def _decoded(self, found: bytes) -> Manifest:
        try:
            manifest = msgspec.json.decode(found, type=Manifest)
        except msgspec.DecodeError as error:
            raise self._foreign(f"its {MANIFEST} is not one of ours: {error}") from error
        if manifest.format > FORMAT:
            raise StoreVersionError(
                f"{self.url}: written by a newer checkpointdb (format {manifest.format}, this one "
                f"knows {FORMAT}); nothing was read or written. Upgrade checkpointdb",
                self.url,
            )
        return manifest

    def _any_object(self) -> str | None:
        """Return the path of an object, None if there is none."""
        with self._mapped():
            for page in self._objects.list(chunk_size=10):
                for it in page:
                    return str(it["path"])
        return None

    def _foreign(self, why: str) -> BucketError:
        return BucketError(
            f"{self.url}: holds something else than stores ({why}); nothing was written. Give "
            "another prefix",
            self.url,
        )

    def segments(self) -> list[Name]:
        """Return the names of all segments, one request a thousand.

        A list of a folder, or of many requests, is of no one moment: what a compaction deletes may
        be gone from it, and what takes its place not be in it. So it is one after which nothing
        was gone in the next.
        """
        names, is_of_a_moment = self._list()
        while not is_of_a_moment:
            before = set(names)
            names, is_of_a_moment = self._list()
            is_of_a_moment |= before <= set(names)
        return names

    def _list(self) -> tuple[list[Name], bool]:
        """Return what one list has, and whether all of it was there at one moment."""
        names, pages = [], 0
        with self._mapped():
            for pages, page in enumerate(self._objects.list(chunk_size=1000), 1):  # noqa: B007
                names += [Name.parse(it["path"], it["size"]) for it in page]
        return list(filter(None, names)), pages <= 1 and self._folder is None

    def put(self, name: Name, data: bytes) -> None:
        """Create a segment. One of that name is this very one: a lost answer, and tried again."""
        self._create(name.path, data)

    def get(self, name: Name) -> bytes | None:
        """Return a segment's bytes, None if it is not there any more.

        Raises:
            BucketError: they are not those that were written.
        """
        data = self._read(name.path)
        if data is not None and digest(data) != name.digest:
            raise BucketError(
                f"{self.url}: segment {name.path} is damaged: its bytes are not those that were "
                "written. Nothing was changed. Get an older version of that object, if the bucket "
                "keeps them; or delete the folder of its writer, which loses what that shipped",
                self.url,
            )
        return data

    def delete(self, names: Iterable[Name]) -> None:
        """Delete segments; those that are gone already are no error."""
        for name in names:
            with self._mapped(), contextlib.suppress(FileNotFoundError):
                self._objects.delete(name.path)

    def _read(self, path: str) -> bytes | None:
        with self._mapped():
            try:
                return bytes(self._objects.get(path).bytes())
            except FileNotFoundError as error:
                if "NoSuchBucket" in str(error):
                    raise
                return None

    def _create(self, path: str, data: bytes) -> bool:
        """Create an object, whole; tell whether it was not there."""
        from obstore.exceptions import AlreadyExistsError

        with self._mapped():
            try:
                self._objects.put(path, data, mode="create")
            except AlreadyExistsError:
                return False
            return True

    @contextlib.contextmanager
    def _mapped(self) -> Iterator[None]:
        from obstore.exceptions import BaseError

        _check_process(self.url)
        try:
            yield
        except (BaseError, OSError) as error:
            raise _ours(self.url, error) from error


def _check_process(url: str) -> None:
    global _user
    if _user is None:
        _user = os.getpid()
    elif _user != os.getpid():
        raise BucketError(
            f"{url}: cannot be reached from process {os.getpid()}, which was forked after process "
            f"{_user} had used a bucket: obstore does not work there. Start processes by 'spawn' "
            "or 'forkserver' (multiprocessing.set_start_method), or fork before the first run",
            url,
        )


def _checked(url: str) -> str | None:
    """Return the folder that a URL names, None for a bucket; or raise."""
    parts = urllib.parse.urlsplit(str(url))
    known = f"{parts.scheme}://" in str(url) and parts.scheme in SCHEMES
    if not known or not (parts.netloc or parts.path.strip("/")):
        raise ValueError(
            f"{url!r} is not a bucket: give s3://bucket/prefix, gs://bucket/prefix, "
            "az://account/container/prefix or file:///folder"
        )
    if parts.scheme != "file":
        return None
    if parts.netloc:
        raise ValueError(f"{url!r}: a folder has three slashes: file:///{parts.netloc}{parts.path}")
    return urllib.parse.unquote(parts.path)


def _opened(url: str, folder: str | None) -> Any:
    from obstore.store import LocalStore, from_url

    if folder is not None:
        return LocalStore(folder)
    # a plain http:// endpoint is for tests and one's own network: said by the usual variable
    plain = os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("1", "true", "yes")
    client: Any = {"connect_timeout": "5s", "timeout": "5min", "allow_http": plain}
    return from_url(url, client_options=client, retry_config=_RETRY)


# What is in the text of an error, and what that means. Buckets have no classes for it.
_MEANINGS = (
    (("NoSuchBucket", "ContainerNotFound", "specified bucket does not exist"),
     "there is no such bucket. Create it, or check its name"),
    (("RequestTimeTooSkewed", "AuthenticationFailed: Request date"),
     "this machine's clock is wrong, and the bucket accepts no requests from it. Set the clock"),
    (("169.254.169.254", "/latest/api/token", "token request", "MissingAccount", "redential"),
     "there are no credentials. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
     "GOOGLE_SERVICE_ACCOUNT or AZURE_STORAGE_ACCOUNT_NAME and its key, or run where the machine "
     "has a role"),
)  # fmt: skip


def _ours(url: str, error: Exception) -> BucketError:
    """Return the error of ours that says the same."""
    from obstore.exceptions import PermissionDeniedError, UnauthenticatedError

    text = str(error)
    said = re.sub(r"\?\S+", "", text.split("\n")[0])[:300]  # a query may have a signature in it
    for signs, meaning in _MEANINGS:
        if any(sign in text for sign in signs):
            return BucketError(f"{url}: {meaning} ({said})", url)
    if isinstance(error, PermissionDeniedError | UnauthenticatedError | PermissionError):
        return BucketError(
            f"{url}: access is denied. Check the credentials, and that they may list, read and "
            f"write here ({said})",
            url,
        )
    return BucketError(f"{url}: cannot be reached ({said})", url, passing=True)
