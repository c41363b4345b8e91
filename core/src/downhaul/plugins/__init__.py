"""Plugins that come with downhaul; each is attached by hand, and written against public names only."""

from __future__ import annotations

from ._authority import Authorizer, Grant, Scoped
from ._basic import BasicAuth
from ._challenges import Challenge, read_challenges
from ._choice import Adaptive, Choice, InOrder
from ._linked import LinkedMirrors
from ._lists import fetch_list
from ._metalink import Metalink
from ._metalink_reader import MetalinkFile, read_metalink
from ._mirror import Mirror, allowed
from ._mirror_list import MirrorList
from ._mirrors import Mirrors
from ._netrc import Netrc
from ._oauth2 import OAuth2ClientCredentials, OAuth2RefreshToken
from ._registry_token import RegistryToken
from ._score import Score
from ._scores import Scores
from ._segments import Segments
from ._srv import SrvMirrors
from ._tokens import BearerToken, HeaderToken, Token

__all__ = [
    "Adaptive", "Authorizer", "BasicAuth", "BearerToken", "Challenge", "Choice", "Grant", "HeaderToken", "InOrder",
    "LinkedMirrors", "Metalink", "MetalinkFile", "Mirror", "MirrorList", "Mirrors", "Netrc", "OAuth2ClientCredentials",
    "OAuth2RefreshToken", "RegistryToken", "Scoped", "Score", "Scores", "Segments", "SrvMirrors", "Token", "allowed",
    "fetch_list", "read_challenges", "read_metalink",
]  # fmt: skip
