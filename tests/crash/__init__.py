"""A power-cut and I/O-fault laboratory for stores: `python -m tests.crash --help`.

The real `Store` runs on a VFS that writes down what reaches the disk and when. From what was
written down the laboratory makes the disks that a power cut could have left, and opens each.

    journal     what happened, in order: writes, syncs, directory entries, acknowledgements
    recorder    an SQLite VFS, and Python's own file calls, that keep the journal
    disk        replays a journal; what a power cut at this point may leave, in seven modes
    lives       what is run: a life of a store, drawn from a seed
    kinds       what is run in each kind of life
    history     the state after each commit, and what had been acknowledged when
    checkers    safety: nothing acknowledged is lost, no byte is wrong. liveness: everything ends
    power       experiment: record a life, cut the power many times, check
    faults      experiment: an I/O operation fails, once or from then on, at each place in turn
    rot         experiment: flipped bits
    exceptions  experiment: an exception at every line of a commit; no memory
    kills       experiment: SIGKILL at random instants of every driver
    signals     experiment: SIGINT and SIGTERM before each bytecode of a commit
    clocks      experiment: the wall clock is set forward and back
    processes   experiment: fork, spawn, forkserver; many at once; a reader that stays
    watch       awaits processes, bounded by what they get done
    planted     faults put into the store on purpose, each of which the laboratory must catch
    session     a share of the states to each experiment, in parts
    report      what was counted, as JSON

The parts above `power` know nothing of each other's insides. No part is imported by the product.
docs/crash-lab.md says how to use it.
"""
