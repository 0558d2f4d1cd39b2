"""The operator's end of the agents' streams: who is connected, what they report, what they are told."""

from disttrain_operator.channel.authentication import Authenticate, CachedAuthenticator, PodIdentity
from disttrain_operator.channel.hub import AgentHub, AgentView
from disttrain_operator.channel.server import StreamServer

__all__ = ["AgentHub", "AgentView", "Authenticate", "CachedAuthenticator", "PodIdentity", "StreamServer"]
