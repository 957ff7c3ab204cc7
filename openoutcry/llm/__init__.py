"""Language models: how they are asked, and what they are asked about candles."""
