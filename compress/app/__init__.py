"""The app bundle: the pruned network with its preprocessing inside, and what it takes to call it from an app.

``graph`` composes the model, ``check`` proves it against the exported file, ``page`` makes the offline web page,
``card`` says what the report knows, and ``bundle`` writes it all into ``DIR/app``.
"""
