"""Outside sources that are no exchange: catalogues and news. Pages in, items out."""
