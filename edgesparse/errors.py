"""Every error that edgesparse raises on purpose. Each message is one line: found, needed, and what mends it.

EdgeSparseError
  ConfigError            the recipe or the command line
    ImageError           an image file that cannot be used
  ModelError             the ONNX file
    SparsityError        a 2:4 pattern that is missing or cannot be made
    CalibrationError     calibration data or tables
  BuildError             making a package
    MemoryBudgetExceeded
    AccuracyGateFailed
    SparsityNotAchieved
  PackageError           the store of built packages
    ManifestMismatch     a package that was made for something else
    SignatureError
  BackendUnavailable     this machine lacks something
  StreamError
    SourceError          cameras, files
      CameraUnavailable
        AuthenticationFailed   it does not accept the user
    SinkError            where detections go
  DeployError            bringing a bundle onto a device
    RolledBack           it ran, turned sick, and the old one is back
"""

from __future__ import annotations

REFUSED, WRONG_USE, MACHINE_LACKS = 1, 2, 3


class EdgeSparseError(Exception):
    """Base of all. `exit_code` is what a command ends with: 1 refused, 2 wrong use, 3 the machine lacks something."""

    exit_code = REFUSED


class ConfigError(EdgeSparseError):
    exit_code = WRONG_USE


class ImageError(ConfigError):
    pass


class ModelError(EdgeSparseError):
    exit_code = WRONG_USE


class SparsityError(ModelError):
    exit_code = REFUSED


class CalibrationError(ModelError):
    pass


class BuildError(EdgeSparseError):
    pass


class MemoryBudgetExceeded(BuildError):
    exit_code = MACHINE_LACKS


class AccuracyGateFailed(BuildError):
    pass


class SparsityNotAchieved(BuildError):
    pass


class PackageError(EdgeSparseError):
    pass


class ManifestMismatch(PackageError):
    pass


class SignatureError(PackageError):
    pass


class BackendUnavailable(EdgeSparseError):
    exit_code = MACHINE_LACKS


class StreamError(EdgeSparseError):
    exit_code = WRONG_USE


class SourceError(StreamError):
    pass


class CameraUnavailable(SourceError):
    exit_code = MACHINE_LACKS


class AuthenticationFailed(CameraUnavailable):
    pass


class SinkError(StreamError):
    pass


class DeployError(EdgeSparseError):
    pass


class RolledBack(DeployError):
    pass
