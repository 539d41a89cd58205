"""The report of a training: figures collected on the way, ``report.json``, ``report.html``.

``record`` holds the curves of one run and goes into its checkpoint. ``watch`` fills it: with
numbers that the spec steers, with gradients of single edges (``probe``), and with how often student
and teacher agree (``agreement``). ``report`` puts the runs of a command together, ``page`` makes
one HTML file of them. Nothing here has a part in what is trained.
"""
