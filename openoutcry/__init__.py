"""One self-hosted server for crypto market data and trading. ARCHITECTURE.md is the map."""

__version__ = "0.1.0"
