"""The verbs of the encoder: what each gives, and that they agree with each other."""

import ast
import io
import sys
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import fiber_mm.core
from fiber_mm.core import FiberCfg, FiberEncoder, FusionCfg
from fiber_mm.structures import ImageTrunk, TextTrunk

from .conftest import tiny_batch, tiny_cfg, tiny_encoder


def features(out):
    """All floating-point tensors of ``FusedFeatures``."""
    return [*out.stage_maps, out.image_tokens, out.text_tokens]


def assert_equal(first, second):
    for a, b in zip(features(first), features(second), strict=True):
        assert torch.equal(a, b)


def assert_close(first, second, atol=1e-5):
    for a, b in zip(features(first), features(second), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=atol)


# ---- verbs agree ---------------------------------------------------------------------------


def test_trunks_and_fusion_are_exactly_the_one_piece_forward(family):
    encoder = tiny_encoder(family=family)
    images, ids, mask = tiny_batch()
    image, text = encoder.image_trunk(images), encoder.text_trunk(ids, mask)
    assert_equal(encoder.fuse(image, text), encoder(images, ids, mask))


@pytest.mark.parametrize('shape', [(40, 56), (41, 55), (3, 2), (1, 1), (96, 12)])
def test_shapes_for_any_image_size(shape, family):
    encoder = tiny_encoder(family=family)
    images, ids, mask = tiny_batch(2, *shape)
    out = encoder(images, ids, mask)
    height, width = (-(-side // 4) for side in shape)
    for stage, stage_map in enumerate(out.stage_maps):
        assert stage_map.shape == (2, 8 * 2**stage, height, width)
        if stage < 3:
            height, width = -(-height // 2), -(-width // 2)
    assert out.image_tokens.shape == (2, height * width, 64)
    assert out.text_tokens.shape == (2, 7, 16)
    assert torch.equal(out.text_mask, mask)
    assert all(t.isfinite().all() for t in features(out))


def test_shut_gates_are_the_encoders_alone(family):
    encoder = tiny_encoder(family=family, fusion=dict(gate_init=0.0))
    images, ids, mask = tiny_batch()
    image, text = encoder.image_trunk(images), encoder.text_trunk(ids, mask)
    out = encoder.fuse(image, text)
    alone = encoder.image_alone(image)
    for a, b in zip(out.stage_maps, alone.stage_maps, strict=True):
        assert torch.equal(a, b)
    tokens = alone.tokens
    if encoder.cfg.swin.final_norm:
        assert torch.equal(encoder.image.norm(out.image_tokens), tokens)
        assert not torch.equal(out.image_tokens, tokens)
    else:
        assert torch.equal(out.image_tokens, tokens)
    text_alone = encoder.text_alone(text)
    if encoder.cfg.fusion.fused_text_norm:
        assert torch.equal(out.text_tokens, text_alone)
    else:
        norm = encoder.text.encoder.layer[-1].output.LayerNorm
        assert torch.equal(norm(out.text_tokens), text_alone)
        assert not torch.equal(out.text_tokens, text_alone)


def test_open_gates_pass_information_both_ways():
    encoder = tiny_encoder()
    images, ids, mask = tiny_batch()
    image, text = encoder.image_trunk(images), encoder.text_trunk(ids, mask)
    out = encoder.fuse(image, text)
    other = encoder.fuse(image, text.select(torch.tensor([1, 0])))
    assert torch.equal(out.stage_maps[1], other.stage_maps[1])  # no fused block there
    assert not torch.allclose(out.stage_maps[2], other.stage_maps[2])
    other = encoder.fuse(image.select(torch.tensor([1, 0])), text)
    assert not torch.allclose(out.text_tokens, other.text_tokens)


def test_each_side_reads_the_other_before_its_update(family):
    """One pair of fused blocks written out from the parts."""
    encoder = tiny_encoder(family=family, fusion=dict(num_blocks=1))
    images, ids, mask = tiny_batch()
    image, text = encoder.image_trunk(images), encoder.text_trunk(ids, mask)
    block, layer = encoder.image.layers[-1].blocks[-1], encoder.text.encoder.layer[-1]
    bias = torch.where(mask, 0.0, -1e4)[:, None, None]
    attended = block.window_attention(image.tokens, encoder.image.plans)
    x = image.tokens + block.attn.fuse(attended, text.tokens, bias)
    x = x + block.mlp(block.norm2(x))
    memory = layer.crossattention_t2i.self.memory(image.tokens.flatten(1, 2))
    tokens = layer(text.tokens, bias, memory, last_norm=encoder.cfg.fusion.fused_text_norm)
    out = encoder.fuse(image, text)
    torch.testing.assert_close(out.image_tokens, x.flatten(1, 2))
    torch.testing.assert_close(out.text_tokens, tokens)


@pytest.mark.parametrize('blocks', [0, 1, 2, 3, 5])
def test_fusion_may_start_anywhere(blocks):
    encoder = tiny_encoder(fusion=dict(num_blocks=blocks))
    images, ids, mask = tiny_batch()
    out = encoder(images, ids, mask)
    gates = [name for name, _ in encoder.named_parameters() if 'alpha' in name]
    assert len(gates) == 2 * blocks
    # Stages that no fused block belongs to are final in the trunk.
    done = sum(stage < (encoder.plan.pairs[0].stage if blocks else 4) for stage in range(4))
    assert len(encoder.image_trunk(images).stage_maps) == done
    assert len(out.stage_maps) == 4


# ---- trunks as values ----------------------------------------------------------------------


def test_one_image_trunk_serves_many_texts():
    encoder = tiny_encoder()
    images, _, _ = tiny_batch(1)
    _, ids, mask = tiny_batch(3, seed=1)
    image, text = encoder.image_trunk(images), encoder.text_trunk(ids, mask)
    together = encoder.fuse(image.repeat(3), text)
    for i in range(3):
        one = encoder.fuse(image, text.select(i))
        for a, b in zip(features(together), features(one)):
            torch.testing.assert_close(a[i : i + 1], b, rtol=1e-5, atol=1e-5)


def test_trunks_are_indexed_by_sample():
    encoder = tiny_encoder()
    images, ids, mask = tiny_batch()
    for trunk in (encoder.image_trunk(images), encoder.text_trunk(ids, mask)):
        size = len(trunk.tokens)
        assert torch.equal(trunk[1].tokens, trunk.tokens[1:2])
        assert type(trunk[-1]) is type(trunk)
        for index in ([1, 0], torch.tensor([1, 0]), slice(None, None)):
            assert torch.equal(trunk[index].tokens, trunk.tokens[index])
        with pytest.raises(IndexError, match=f'sample {size} of a trunk that holds {size}'):
            trunk[size]
        first, _ = trunk  # the fields, in their order
        assert first is trunk.tokens
        assert type(trunk._replace(tokens=first)) is type(trunk)


def test_trunks_survive_a_file():
    encoder = tiny_encoder()
    images, ids, mask = tiny_batch()
    trunks = [encoder.image_trunk(images), encoder.text_trunk(ids, mask)]
    file = io.BytesIO()
    torch.save([trunk.detach().state_dict() for trunk in trunks], file)
    file.seek(0)
    image, text = torch.load(file, weights_only=True)
    out = encoder.fuse(ImageTrunk.from_state_dict(image), TextTrunk.from_state_dict(text))
    assert_equal(out, encoder.fuse(*trunks))


def test_images_of_one_size_do_not_touch_each_other():
    encoder = tiny_encoder().double()
    images, ids, mask = tiny_batch(3)
    images = images.double()
    together = encoder(images, ids, mask)
    for i in range(3):
        part = slice(i, i + 1)
        alone = encoder(images[part], ids[part], mask[part])
        for a, b in zip(features(together), features(alone)):
            torch.testing.assert_close(a[part], b, rtol=1e-10, atol=1e-10)


def test_more_padding_of_the_text_changes_nothing(family):
    encoder = tiny_encoder(family=family).double()
    images, ids, mask = tiny_batch(2)
    images = images.double()
    longer = torch.cat([ids, torch.ones(2, 9, dtype=ids.dtype)], 1)
    out, padded = encoder(images, ids, mask), encoder(images, longer, longer != 1)
    for a, b in zip(out.stage_maps, padded.stage_maps):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    tokens = padded.text_tokens[:, : ids.shape[1]]
    torch.testing.assert_close(out.text_tokens[mask], tokens[mask], rtol=0, atol=1e-12)


# ---- training ------------------------------------------------------------------------------


def loss_of(encoder, batch):
    out = encoder(*batch)
    mask = out.text_mask[..., None]
    return sum(f.square().mean() for f in out.stage_maps) + (out.text_tokens * mask).cos().mean()


def gradients(encoder, batch):
    encoder.zero_grad()
    loss_of(encoder, batch).backward()
    return {name: p.grad.clone() for name, p in encoder.named_parameters() if p.grad is not None}


def test_every_parameter_gets_a_gradient(family):
    encoder = tiny_encoder(family=family)
    found = gradients(encoder, tiny_batch())
    # The norm of the image alone is not part of the fused pass, nor is a skipped text norm.
    spared = (
        set()
        if family != 'coarse'
        else {
            f'{name}.{kind}'
            for name in ('image.norm', 'text.encoder.layer.4.output.LayerNorm')
            for kind in ('weight', 'bias')
        }
    )
    assert set(dict(encoder.named_parameters())) - set(found) == spared
    dead = {name for name, grad in found.items() if not grad.any()}
    assert not dead


def test_recomputing_blocks_gives_the_same_gradients():
    off = dict(hidden_dropout=0.0, attention_dropout=0.0)
    stored = tiny_encoder(roberta=off).train()
    recomputed = tiny_encoder(roberta=off, checkpoint=True).train()
    batch = tiny_batch()
    wanted, seen = gradients(stored, batch), gradients(recomputed, batch)
    assert set(wanted) == set(seen)
    for name, grad in wanted.items():
        torch.testing.assert_close(seen[name], grad, msg=lambda m, n=name: f'{n}: {m}')


def test_recomputing_draws_the_same_dropout():
    batch = tiny_batch()
    results = []
    for checkpoint in (False, True):
        encoder = tiny_encoder(checkpoint=checkpoint, swin=dict(drop_path_rate=0.5)).train()
        torch.manual_seed(3)
        results.append(gradients(encoder, batch))
    for name, grad in results[0].items():
        torch.testing.assert_close(results[1][name], grad)


def test_frozen_stages_get_no_gradient():
    encoder = tiny_encoder(swin=dict(frozen_stages=1)).train()
    frozen = ('image.patch_embed.', 'image.layers.0.')
    found = gradients(encoder, tiny_batch())
    assert {name for name, _ in encoder.named_parameters() if name not in found} == {
        name for name, _ in encoder.named_parameters() if name.startswith(frozen)
    }
    assert not encoder.image.layers[0].training
    assert encoder.image.layers[1].training


def test_bf16_autocast_stays_near():
    encoder = tiny_encoder()
    batch = tiny_batch()
    wanted = encoder(*batch)
    with torch.autocast('cpu', torch.bfloat16):
        seen = encoder(*batch)
    for a, b in zip(features(seen), features(wanted)):
        error = (a.float() - b).square().mean().sqrt() / b.std()
        assert 0 < error < 0.05


def test_a_step_under_bf16_autocast():
    encoder = tiny_encoder().train()
    with torch.autocast('cpu', torch.bfloat16):
        loss = loss_of(encoder, tiny_batch())
    loss.backward()
    assert all(p.grad.isfinite().all() for p in encoder.parameters() if p.grad is not None)


# ---- captioning ----------------------------------------------------------------------------


def caption_inputs(encoder, batch=3, length=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 50, (batch, length), generator=generator)
    widths = [encoder.cfg.swin.width(pair.stage) for pair in encoder.plan.pairs]
    images = [torch.randn(batch, 10, width, generator=generator) for width in widths]
    return ids, images


def causal_pass(encoder, ids, images):
    """All tokens at once through the layers, every token's past written into a mask."""
    token = ids != 1
    length = ids.shape[1]
    bias = torch.full((len(ids), 1, length, length), -1e4)
    for b in range(len(ids)):
        for i in range(length):
            for j in range(i + 1):
                if token[b, j]:
                    bias[b, 0, i, j] = 0.0
    x = encoder.text.embeddings(ids)
    start = encoder.plan.text_start
    for index, layer in enumerate(encoder.text.encoder.layer):
        memory = None
        if index >= start:
            memory = layer.crossattention_t2i.self.memory(images[index - start])
        x = layer(x, bias, memory)
    return x


@pytest.mark.parametrize('pieces', [(6,), (1, 1, 1, 1, 1, 1), (2, 1, 3)])
def test_decoding_with_a_cache_is_the_causal_pass(pieces):
    encoder = tiny_encoder()
    ids, images = caption_inputs(encoder)
    ids[1, 4:] = 1  # a caption that ended
    outs, cache = [], None
    for piece in ids.split(pieces, 1):
        out, cache = encoder.decode_step(piece, images, cache)
        outs.append(out)
    wanted = causal_pass(encoder, ids, images)
    token = ids != 1
    torch.testing.assert_close(torch.cat(outs, 1)[token], wanted[token], rtol=1e-5, atol=1e-5)


def test_reordered_beams_continue_from_their_new_past():
    encoder = tiny_encoder()
    ids, images = caption_inputs(encoder, length=5)
    order = torch.tensor([2, 0, 0])
    _, cache = encoder.decode_step(ids[:, :3], images)
    cache = encoder.reorder_cache(cache, order)
    out, _ = encoder.decode_step(ids[:, 3:], images, cache)
    joined = torch.cat([ids[order, :3], ids[:, 3:]], 1)
    wanted = causal_pass(encoder, joined, [t[order] for t in images])[:, 3:]
    torch.testing.assert_close(out, wanted, rtol=1e-5, atol=1e-5)


def test_a_decoding_cache_grows_without_touching_the_one_before():
    encoder = tiny_encoder()
    ids, images = caption_inputs(encoder)
    _, first = encoder.decode_step(ids[:, :2], images)
    _, second = encoder.decode_step(ids[:, 2:3], images, first)
    assert first['token'].shape == (3, 2)
    assert second['token'].shape == (3, 3)
    once, _ = encoder.decode_step(ids[:, 2:3], images, first)
    twice, _ = encoder.decode_step(ids[:, 2:3], images, first)
    assert torch.equal(once, twice)


# ---- errors --------------------------------------------------------------------------------


@pytest.mark.parametrize('shape', [(3, 8, 8), (1, 1, 8, 8), (1, 4, 8, 8), (1, 3, 8)])
def test_images_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r'images of shape \(B, 3, H, W\)'):
        tiny_encoder().image_trunk(torch.zeros(shape))


def test_ids_and_mask_of_different_shapes_are_refused():
    _, ids, mask = tiny_batch()
    with pytest.raises(ValueError, match=r'one shape \(B, T\)'):
        tiny_encoder().text_trunk(ids, mask[:, :-1])


def test_trunks_of_different_batches_are_refused():
    encoder = tiny_encoder()
    images, ids, mask = tiny_batch()
    image, text = encoder.image_trunk(images), encoder.text_trunk(ids, mask)
    with pytest.raises(ValueError, match='2 images cannot be fused with 1 texts'):
        encoder.fuse(image, text.select(0))


def test_decoding_without_an_entry_per_layer_is_refused():
    encoder = tiny_encoder()
    ids, images = caption_inputs(encoder)
    with pytest.raises(ValueError, match='4 fused layers need as many'):
        encoder.decode_step(ids, images[:2])


def test_decoding_beyond_the_position_table_is_refused():
    encoder = tiny_encoder()
    ids, images = caption_inputs(encoder)
    limit = encoder.text.cfg.max_tokens
    _, cache = encoder.decode_step(ids[:, :1].expand(-1, limit), images)
    with pytest.raises(ValueError, match=f'grows to {limit + 1} tokens, more than the {limit}'):
        encoder.decode_step(ids[:, :1], images, cache)


def test_more_fused_blocks_than_layers_are_refused_when_building():
    with pytest.raises(ValueError, match='6 fused blocks are more than'):
        FiberEncoder(tiny_cfg(fusion=dict(num_blocks=6)))


# ---- by construction -----------------------------------------------------------------------


def test_an_encoder_without_text():
    cfg = tiny_cfg()
    encoder = FiberEncoder(FiberCfg(cfg.swin, None, FusionCfg(num_blocks=0)))
    assert not any(name.startswith('text') for name in encoder.state_dict())
    images, _, _ = tiny_batch()
    out = encoder.image_alone(encoder.image_trunk(images))
    assert len(out.stage_maps) == 4


def test_the_state_holds_parameters_only(family):
    encoder = tiny_encoder(family=family)
    assert set(encoder.state_dict()) == {name for name, _ in encoder.named_parameters()}


@pytest.mark.parametrize('training', [False, True])
def test_nothing_sticks_to_the_cpu_in_a_forward_on_cuda(training, family):
    """Fake tensors refuse to mix devices, and know no values that the host could wait for."""
    with FakeTensorMode(allow_non_fake_inputs=False), torch.device('cuda'):
        encoder = FiberEncoder(tiny_cfg(family=family)).train(training)
        images = torch.randn(2, 3, 41, 55)
        ids = torch.ones(2, 7, dtype=torch.int64)
        with torch.set_grad_enabled(training), torch.autocast('cuda', torch.bfloat16):
            out = encoder(images, ids, ids != 0)
            encoder.image_alone(encoder.image_trunk(images))
            encoder.text_alone(encoder.text_trunk(ids, ids != 0))
            memories = [
                torch.randn(2, 4, encoder.cfg.swin.width(pair.stage)) for pair in encoder.plan.pairs
            ]
            _, cache = encoder.decode_step(ids[:, :2], memories)
            step, _ = encoder.decode_step(ids[:, 2:3], memories, cache)
    assert {t.device.type for t in (*features(out), out.text_mask, step)} == {'cuda'}


@pytest.mark.parametrize('checkpoint', [False, True])
def test_nothing_sticks_to_the_cpu_in_a_backward(checkpoint):
    # The engine refuses fake CUDA tensors where CUDA is missing; `meta` is a device as well.
    with torch.device('meta'):
        encoder = FiberEncoder(tiny_cfg(checkpoint=checkpoint)).train()
        ids = torch.ones(2, 7, dtype=torch.int64)
        loss = loss_of(encoder, (torch.randn(2, 3, 41, 55), ids, ids != 0))
    loss.backward()
    assert {p.grad.device.type for p in encoder.parameters()} == {'meta'}


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_the_gpu_gives_the_numbers_of_the_cpu(family):
    encoder = tiny_encoder(family=family)
    batch = tiny_batch()
    with torch.no_grad():
        wanted = encoder(*batch)
        seen = encoder.to('cuda')(*(t.to('cuda') for t in batch))
    for a, b in zip(features(seen), features(wanted)):
        torch.testing.assert_close(a.cpu(), b, rtol=1e-4, atol=1e-4)


def test_the_core_imports_torch_and_the_standard_library_only():
    # torchvision's operator is an option of the deformable convolution, imported when chosen.
    allowed = {'torch', 'fiber_mm', *sys.stdlib_module_names}
    for path in Path(fiber_mm.core.__file__).parent.glob('*.py'):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0 or path.parent.name == 'core'
                names = [node.module or 'fiber_mm']
            for name in names:
                root = name.split('.')[0]
                if path.name == 'deform_conv.py' and root == 'torchvision':
                    continue
                assert root in allowed, f'{path.name} imports {name}'
                if root == 'fiber_mm':
                    assert name.startswith(('fiber_mm.core', 'fiber_mm.structures')), name
