"""All errors that edgesparse raises on purpose. Each message is one line: what was found, what was needed, the fix.

EdgeSparseError
  ConfigError            a recipe, settings or the command line are wrong
    ImageError           an image cannot be read
  ModelError             the ONNX file cannot be used
    SparsityError        a 2:4 pattern is missing or not possible, or channels cannot be removed
    CalibrationError     calibration data or a table cannot be used
  BuildError             no package could be built
    MemoryBudgetExceeded no candidate fits into the memory budget
    AccuracyGateFailed   no candidate detects well enough
    SparsityNotAchieved  2:4 was required, and no engine gains from it
  PackageError           the store has no such package, or it is damaged
    ManifestMismatch     the package was built for something else
    SignatureError       a signature is missing or wrong
  BackendUnavailable     this machine lacks a library or device
  InstallError           the service cannot be installed or removed
  StreamError            frames could not be read or results not written
    SourceError          a camera, file or address cannot be read
      CameraUnavailable  a camera does not answer
        AuthenticationFailed a camera refuses the user or password
    SinkError            an output cannot be written
  DeployError            a bundle was not deployed
    RolledBack           it ran, became unhealthy, and the old engine is back
"""

from __future__ import annotations

REFUSED, WRONG_USE, MACHINE_LACKS = 1, 2, 3


class EdgeSparseError(Exception):
    """The base class. `exit_code` is that of a command: 1 refused, 2 wrong use, 3 the machine lacks something."""

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


class InstallError(EdgeSparseError):
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
