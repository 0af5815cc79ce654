"""Words of the CNI specification 1.1 that plugin and server share. Standard library only, and little of it."""

VERSIONS = ("0.3.1", "0.4.0", "1.0.0", "1.1.0")
LATEST = VERSIONS[-1]
FIRST_VERSION_OF = {"CHECK": "0.4.0", "GC": "1.1.0", "STATUS": "1.1.0"}
DEFAULT_SOCKET = "/run/kilim/cni.sock"
LINE_BYTES_MAX = 4 << 20

INCOMPATIBLE_VERSION = 1
UNSUPPORTED_FIELD = 2
INVALID_ENVIRONMENT = 4
IO_FAILURE = 5
DECODING_FAILURE = 6
INVALID_CONFIG = 7
TRY_AGAIN_LATER = 11
NOT_AVAILABLE = 50
LIMITED_CONNECTIVITY = 51
CHECK_FAILED = 101
POOL_EXHAUSTED = 102
REFUSED = 103
INTERNAL = 999


class CniError(Exception):
    """Becomes the error object of the specification. `message` names the field and the rule; `details` say more."""

    def __init__(self, code: int, message: str, details: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details

    def as_json(self, version: str) -> dict[str, object]:
        error: dict[str, object] = {"cniVersion": version, "code": self.code, "msg": self.message}
        if self.details:
            error["details"] = self.details
        return error
