"""An HTTP server and a web page that identify animals with an exported file. Need starlette and uvicorn, not torch."""
