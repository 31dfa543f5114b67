"""The lab: what codecs and zpools make of somebody's own pages, measured and put into words.

`request` what is asked for, `pages` from which files, `core` who measures (Rust), `run` in which
order, `results` what came out (and the file of it); `tables`, `charts`, `plots` and `progress` for
eyes; `advice` the rules from results to a configuration, `wording` those in words;
`process_memory`, `sampling` and `grab` take pages from a live process; `commands` is the command
line.

Not here: the measuring itself (`_core`) and the server, which loads nothing of this but the flags.
"""
