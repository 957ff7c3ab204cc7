"""Slower events from events: candles, rollups, derivative bars, tickers, spikes. Pure: no clock, no bus, no I/O."""
