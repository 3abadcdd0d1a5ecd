"""The page: the accordion, its events, its presets, the settings and the axes of the X/Y/Z plot."""
