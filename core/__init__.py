"""StitchLens computes here; nothing in this package imports streamlit, and nothing happens at
import.

The map, in the order in which the data flows. A box imports only boxes above it.

    errors, config, progress, statistics: what everything uses
    workspace: where results live, whole or not at all, with their hash and what they were made from
    text: the documents that both models read, in disjoint splits; languages
    models: two language models, found, opened, checked; hooks; which positions read the same text
    activations: their paired residual streams, streamed; second moments are all that a fit keeps
    bench: a pair with its models, corpus and workspace at hand
    stitches: affine maps between the streams: fitted, what crossing costs (Eq. 1-6, Table 1), and
        the stitched model that reads and speaks (Fig. 1a)
    saes: sparse autoencoders carried across, and trained from there (3.1, Tables 2-4)
    features: feature by feature: attribution (Eq. 10), agreement, contexts, labels, native twins,
        search, semantic or structural (5.1)
    functional: features by what they do: entropy, attention (5.2)
    probes: linear probes carried across (4)
    steering: steering vectors carried across (4, F)
    report, doctor, jobs, api, cli: a workspace as one object; health; background work; answers over
        HTTP; the command line

Within a topic: `files` opens others' files without trusting them, `card` says what is wrong with
one, `measure` makes artifacts, `tables` reads them into tidy tables and never imports torch; the
other files are the topic's own ideas, by their names in the field.
"""

__version__ = "0.1.0"
