"""What every driver keeps, as tests."""

from __future__ import annotations

from ._delivery import DeliveryFacts
from ._failures import FailureFacts
from ._freedom import FreedomFacts
from ._ranges import RangeFacts


class DriverContract(DeliveryFacts, RangeFacts, FailureFacts, FreedomFacts):
    """The contract of a driver: inherit it, give `make_driver`, `url_of` and `missing_url`, set the flags that differ.

    Every test makes a driver and an event loop of its own; with each one it also proves that closing the driver
    leaves no task, no open file or socket, and no exception that nobody handled.
    """
