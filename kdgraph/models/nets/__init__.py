"""Code of the sources that needs torch: imported only when a model is built."""
