"""Time, memory and share of the machine's peak of FIBER-Base with random weights.

    python tools/benchmark.py detect [--precision bf16] [--runs 5] [--against plain]
    python tools/benchmark.py detect_chunks
    python tools/benchmark.py detect_captions
    python tools/benchmark.py train_step
    python tools/benchmark.py pretrain_step
    python tools/benchmark.py itm_rerank

detect         one image of 800x1056, one prompt of 80 classes in 256 tokens, to final boxes
detect_chunks  one image of 480x640, four such prompts that share the image trunk
detect_captions  one image of 480x640, five captions in one batch, as in an evaluation of phrases
train_step     one image of 800x1056: loss, backward and optimiser step
pretrain_step  two pairs of 384x384 and 40 tokens: the losses of coarse pre-training and their
               backward, negatives from the batch; pretrain_step_queue: from a queue of 4,096
itm_rerank     matching scores of all pairs of four images of 384x384 and 16 captions

The last line on stdout is one JSON object. seconds: median of the runs; peak_memory_mb: largest
resident set of a fresh process that does nothing else (on a GPU: largest allocation);
peak_gflops: the faster of torch.mm and a 1x1 convolution in the same process at the same
precision; fraction: share of it that the model reaches, its operations counted by formula. The
line before it holds the rest: those operations (tflop), the device, detect_chunks beside its
first chunk alone (ratio_to_one_chunk), detect_captions beside one call for each caption
(ratio_to_one_by_one). With --against plain, a second process takes turns with the
first: torchvision's deformable convolution, F.linear, attention written out, every use of an image
encoded anew, fp32; speedup is the median ratio of neighbouring runs (pretrain_step_queue: as many
passes, with negatives from the batch and without the memory of a queue). With --one-by-one the
second starts when the first has ended, where both do not fit into memory. See docs/performance.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from fiber_mm.benchmark import CASES, KEYS, Spec, compare


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('name', choices=sorted(CASES), help='what to measure')
    parser.add_argument('--precision', choices=['fp32', 'bf16'], default='fp32')
    parser.add_argument('--runs', type=int, default=5, help='timed runs after one to warm up')
    parser.add_argument('--device', default='cpu', help="'cpu', 'cuda', 'cuda:1' ...")
    parser.add_argument('--threads', type=int, help="CPU threads; default: torch's own choice")
    parser.add_argument(
        '--size', type=int, nargs=2, metavar=('HEIGHT', 'WIDTH'), help='another image size'
    )
    parser.add_argument(
        '--against', choices=['plain'], help='also run the plain formulation, for the ratio'
    )
    parser.add_argument(
        '--one-by-one', action='store_true', help='not both in memory: one after the other'
    )
    args = parser.parse_args(argv)
    if args.runs < 1:
        parser.error(f'--runs must be at least 1, got {args.runs}')
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    args = parse_args(argv)
    size = tuple(args.size) if args.size else None
    spec = Spec(args.name, args.precision, args.device, size)
    report = compare(
        spec, args.runs, args.against == 'plain', args.threads, take_turns=not args.one_by_one
    )
    print(json.dumps({key: value for key, value in report.items() if key not in KEYS}))
    print(json.dumps({key: report[key] for key in KEYS}))


if __name__ == '__main__':
    main()
