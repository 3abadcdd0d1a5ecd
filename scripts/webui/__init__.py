"""The WebUI edge: the only code that knows AUTOMATIC1111's WebUI, Forge and gradio.

`register` is where everything begins: `script` has the hooks that the WebUI calls for each request, `run` does one
request, `page` draws the accordion, `api` and `external` answer programs. `host` is the one door to the WebUI's own
modules for a run. `arguments`, `batch`, `choices`, `contents`, `files`, `paste`, `pictures`, `preprocessing` and
`presets` work without a host, and are tested so.
"""
