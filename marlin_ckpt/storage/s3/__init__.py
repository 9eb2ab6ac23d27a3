"""A prefix in an S3 bucket as a store: objects appear whole or not at all, and are checked on both ways.

boto3 asks and decides (credentials, listings, conditions); the bytes of objects go straight from and to
memory, through the connections that botocore makes. Both are imported here alone, and only for a URL.

- `store`: a prefix as a store.
- `reading`: what can be asked of it.
- `client`: what talks to one endpoint: boto3's client, and connections for data.
- `answers`: what a refused request means, and the error to raise for it, without a secret in it.
- `unreached`: why there is no answer, and the error to raise for that.
- `retrying`: which failed requests are made again, when, and for how long.
- `source`: an object that is read by ranges, all of them of the same version.
- `streaming`: a stretch of an object that is read by one request.
- `keys`: one object by its key: what the store says of it, and the uploads that will be it.
- `uploading`: an object that is uploaded in parts.
- `sums`: what an upload is checked by, of what the store knows.
- `uploads`: those that are under way.
- `conditions`: whether the store obeys them, and what is done without them.
- `moving`: objects that are copied by the server and removed if they are unchanged.
"""

from marlin_ckpt.errors import StorageError

try:
    import boto3  # noqa: F401 - before a module of ours asks for a part of it
except ModuleNotFoundError as error:
    what = f"object storage needs boto3, and there is no module {error.name}"
    raise StorageError(what, "", "pip install 'marlin-ckpt[s3]'") from None
