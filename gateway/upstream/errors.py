"""What may go wrong between the gateway and an engine."""


class UpstreamError(Exception):
    """The engine did not answer, or not to the end."""


class CannotConnect(UpstreamError):
    """No connection within its time: nothing was sent."""


class ConnectionLost(UpstreamError):
    """The engine ended the connection, or what it sent is not HTTP."""


class TimedOut(UpstreamError):
    """The engine was silent for too long."""


class Hung(TimedOut):
    """The engine was found to answer nobody: another may be asked."""


class Aborted(UpstreamError):
    """Our side gave the request up."""
