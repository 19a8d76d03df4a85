"""pdreactor keeps a LAN's addresses and follows the delegated IPv6 prefix."""

__version__ = "0.1.0"
