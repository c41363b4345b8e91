"""Plugins that come with downhaul; each is attached by hand, and written against public names only."""

from __future__ import annotations

from ._credentials.authority import Authorizer, Grant, Scoped
from ._credentials.basic import BasicAuth
from ._credentials.netrc import Netrc
from ._credentials.oauth2 import OAuth2ClientCredentials, OAuth2RefreshToken
from ._credentials.registry_token import RegistryToken
from ._credentials.tokens import BearerToken, HeaderToken, Token
from ._mirror import Mirror, allowed
from ._mirroring.choice import Adaptive, Choice, InOrder
from ._mirroring.linked import LinkedMirrors
from ._mirroring.lists import fetch_list
from ._mirroring.metalink import Metalink
from ._mirroring.mirror_list import MirrorList
from ._mirroring.mirrors import Mirrors
from ._mirroring.score import Score
from ._mirroring.scores import Scores
from ._mirroring.srv import SrvMirrors
from ._parsing.challenges import Challenge, read_challenges
from ._parsing.metalink_reader import MetalinkFile, read_metalink
from ._segmenting.segments import Segments

__all__ = [
    "Adaptive", "Authorizer", "BasicAuth", "BearerToken", "Challenge", "Choice", "Grant", "HeaderToken", "InOrder",
    "LinkedMirrors", "Metalink", "MetalinkFile", "Mirror", "MirrorList", "Mirrors", "Netrc", "OAuth2ClientCredentials",
    "OAuth2RefreshToken", "RegistryToken", "Scoped", "Score", "Scores", "Segments", "SrvMirrors", "Token", "allowed",
    "fetch_list", "read_challenges", "read_metalink",
]  # fmt: skip
