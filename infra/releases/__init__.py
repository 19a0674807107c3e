"""Releases: model bundles named by their content, sealed here, kept in the object store, fetched to local disk."""

from infra.releases.bundle import MANIFEST, Manifest, Release, release_id, seal, verify
from infra.releases.errors import ReleaseError
from infra.releases.shelf import fetch, is_published, publish
from infra.releases.signature import Signature, TensorSpec, read_signature, signature_difference

__all__ = [
    "MANIFEST",
    "Manifest",
    "Release",
    "ReleaseError",
    "Signature",
    "TensorSpec",
    "fetch",
    "is_published",
    "publish",
    "read_signature",
    "release_id",
    "seal",
    "signature_difference",
    "verify",
]
