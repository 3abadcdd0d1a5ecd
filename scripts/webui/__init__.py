"""The WebUI edge: the only code that knows AUTOMATIC1111's WebUI, Forge and gradio.

`register` is where everything begins, and `script` has the hooks that the WebUI calls for each request. The rooms:

- `page/` draws the accordion and the settings.
- `clients/` answers programs: the routes of the API, other extensions.
- `request/` turns what was asked for into units, and runs them; `pictures/` reads and fits their pictures.
- `host/` holds the WebUI's own side: its settings, its base network, its memory, its folders.
"""
