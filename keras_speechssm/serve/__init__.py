"""The pipeline behind HTTP, with a page to try it in a browser (extra `serve`)."""
