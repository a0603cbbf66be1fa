"""What object storage answers when it does not do as asked, in our own words."""

from collections.abc import Iterator
from contextlib import contextmanager

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    NoCredentialsError,
    PartialCredentialsError,
)

from pitcrew_builder.errors import BuildError, DiskFull, StorageRefused, StorageUnreachable
from pitcrew_builder.s3.address import S3Address

_CREDENTIALS = (
    "give AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or an identity that the pod or machine has"
)
_FULL = {"XMinioStorageFull", "QuotaExceeded", "InsufficientStorage"}


@contextmanager
def translated(address: S3Address, doing: str) -> Iterator[None]:
    """Inside, every failure of the client becomes a `BuildError` that says what to do."""
    try:
        yield
    except (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError) as error:
        raise StorageRefused(f"{doing} {address.url}: {error}; {_CREDENTIALS}") from None
    except ClientError as error:
        raise _answered(address, doing, error) from error
    except BotoCoreError as error:
        raise StorageUnreachable(
            f"{doing} {address.url} failed ({_brief(error)}); it will go on where it stopped, check "
            f"the endpoint ({address.endpoint or 'AWS'}) and the network if this lasts"
        ) from error


def status(error: ClientError) -> int:
    """The HTTP status of an answer."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def code(error: ClientError) -> str:
    """The S3 error code of an answer, such as `NoSuchBucket`."""
    return str(error.response.get("Error", {}).get("Code", ""))


def _answered(address: S3Address, doing: str, error: ClientError) -> BuildError:
    where = f"{doing} {address.url}: {_brief(error)}"
    match code(error), status(error):
        case name, _ if name in _FULL:
            return DiskFull(f"{where}; free space on the server or lift its quota")
        case "NoSuchBucket", _:
            return StorageRefused(f"{where}; create the bucket, or correct its name")
        case _, 401 | 403:
            return StorageRefused(
                f"{where}; {_CREDENTIALS}, and let it list, read, write and delete under the prefix"
            )
        case (
            ("AuthorizationHeaderMalformed" | "PermanentRedirect" | "IllegalLocationConstraint"),
            _,
        ):
            return StorageRefused(f"{where}; set AWS_REGION to the bucket's region")
        case "NotImplemented", _:
            return StorageRefused(
                f"{where}; engines need a server with conditional writes (If-None-Match), such as "
                f"AWS, MinIO, Ceph or R2 of a recent version"
            )
        case _, number if 400 <= number < 500 and number not in (408, 409, 429):
            return StorageRefused(f"{where}; check the address and the endpoint")
    return StorageUnreachable(f"{where}; try again later")


def _brief(error: Exception) -> str:
    return str(error)[:300]
