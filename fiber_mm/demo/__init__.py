"""The demo: data, training, evaluation, pictures and a report, one step after the other."""
