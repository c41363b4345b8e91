"""What an importer does with downhaul: each use case in the synchronous form and with asyncio, on real sockets.

A synchronous test runs in a plain thread, without an event loop. What takes more than a page to prove stands in the
files beside this one, under the same marks.
"""

from __future__ import annotations

from tests.acceptance.use_cases import importer

# -- 1. Single files, with every common setting ------------------------------------------------------------------------

# -- 2. All settings of the client library, or one's own client --------------------------------------------------------

# -- 3. An Artifact from size and digests ------------------------------------------------------------------------------

# -- 4. Concurrent downloads from generators ---------------------------------------------------------------------------

# -- 5. Validation -----------------------------------------------------------------------------------------------------

# -- 6. Not all in memory ----------------------------------------------------------------------------------------------

# -- 7. An attachment in results and errors ----------------------------------------------------------------------------

# -- 8. Any thread -----------------------------------------------------------------------------------------------------

# -- 9. Shared sessions, pools, tokens, mirror lists -------------------------------------------------------------------

# -- 10. Customised downloading ----------------------------------------------------------------------------------------

# -- 11. Bounded connections -------------------------------------------------------------------------------------------

# -- 12. Termination at any point --------------------------------------------------------------------------------------

# -- 13. Any protocol --------------------------------------------------------------------------------------------------

# -- 14. A batch goes on, and tells how far it is ----------------------------------------------------------------------
