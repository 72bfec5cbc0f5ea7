"""Convert checkpoints: original FIBER to ours and back, RoBERTa and Swin to initial weights.

    python tools/convert_checkpoint.py fiber_pretrain.ckpt fiber_pretrain.pth
    python tools/convert_checkpoint.py fiber_pretrain.pth back.ckpt --to original
    python tools/convert_checkpoint.py fiber_coarse_init.pt start.pth --init fine
    python tools/convert_checkpoint.py swin_base_patch4_window12_384_22k.pth start.pth \
        --with roberta-base/model.safetensors
"""

from __future__ import annotations

import argparse
import sys

from mmengine.logging import MMLogger

from fiber_mm.convert import FAMILIES, ConversionError
from fiber_mm.convert.files import convert_file, count_parameters, log_summary


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('source', metavar='SRC', help='checkpoint file')
    parser.add_argument('target', metavar='DST', help='file to write: .pth or .safetensors')
    parser.add_argument(
        '--family',
        default='auto',
        choices=['auto', *FAMILIES, 'roberta', 'swin'],
        help='kind of the original checkpoint (default: from its keys)',
    )
    parser.add_argument(
        '--to', default='ours', choices=['ours', 'original'], help='direction (default: ours)'
    )
    parser.add_argument(
        '--init',
        metavar='FAMILY',
        choices=['encoder', *FAMILIES],
        help='write initial weights for a model of this family instead, e.g. a '
        'fine one from a coarse checkpoint',
    )
    parser.add_argument(
        '--with',
        dest='more',
        metavar='SRC',
        action='append',
        default=[],
        help='further source of initial weights (may be repeated)',
    )
    parser.add_argument(
        '--window',
        type=int,
        metavar='N',
        help='window side for initial weights; bias tables are resized',
    )
    parser.add_argument(
        '--ema',
        action='store_true',
        help='take the moving average (model_ema) instead of the weights; files of our own '
        'training hold it as their weights already',
    )
    parser.add_argument(
        '--any-size', action='store_true', help='accept other sizes than FIBER-Base'
    )
    parser.add_argument(
        '--ignore',
        metavar='REGEX',
        action='append',
        default=[],
        help='keys that may be missing or unknown (may be repeated)',
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Convert; 1 if the source is refused or the target cannot be written."""
    args = vars(parse_args(argv))
    logger = MMLogger.get_instance('convert', log_level='INFO')
    try:
        result = convert_file(**args)
    except (ConversionError, OSError) as err:
        named = args['source'] in str(err)
        logger.error(str(err) if named else f'{args["source"]}: {err}')
        return 1
    log_summary(result.report)
    logger.info(
        '%s: %d tensors, %s values',
        args['target'],
        len(result.state_dict),
        f'{count_parameters(result.state_dict):,}',
    )
    return 0


if __name__ == '__main__':
    sys.exit(main())
