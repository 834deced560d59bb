"""The model: the fusion stands where the paper has it, transformers' conventions hold, bad input is told plainly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from accelerate import cpu_offload, init_empty_weights
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, Qwen3VLForConditionalGeneration

from gapmllm.model import FUSIONS, GapMllm, GapMllmConfig, ImageGrid, build, gates, memory
from gapmllm.model.gapmllm import PARTS, TRAINED
from gapmllm.model.image_grid import to_patches
from gapmllm.model.memory import check_memory, estimate_memory
from gapmllm.model.presets import PRESETS, preset_config


@pytest.fixture(scope="module")
def model():
    return build("debug")


def prompt(model, clips, text="what is this?"):
    """One row for one clip, or for several after each other."""
    prefix = model.prompts.prefix([clip.tokens_per_frame for clip in clips for _ in range(clip.num_frames)])
    return torch.tensor([prefix + model.prompts.question(text)])


def test_without_fusion_the_model_is_qwen3_vl(clip_of):
    model = build("debug", fusion="none")
    clip = clip_of(model)
    plain = Qwen3VLForConditionalGeneration(model.config).eval()
    plain.load_state_dict(model.state_dict(), strict=True)
    ids = prompt(model, [clip])
    patches, sizes = to_patches(clip.visual, 8, 2), clip.grid_thw()
    slots = (ids == model.config.image_token_id).int()
    with torch.no_grad():
        ours = model(ids, [clip]).logits
        theirs = plain(ids, pixel_values=patches, image_grid_thw=sizes, mm_token_type_ids=slots).logits
    torch.testing.assert_close(ours, theirs)


def test_what_the_llm_reads_is_the_fusion_of_each_level(model, clip_of):
    clip = clip_of(model, frames=2)
    with torch.no_grad():
        tokens = model.encode([clip])
        seen = model.model.visual(to_patches(clip.visual, 8, 2), grid_thw=clip.grid_thw())
        layers, start = model.geometry_encoder.vggt.aggregate(clip.geometry[None], model.config.geometry_layers)
        got = [*(level[0] for level in tokens.deepstack_features), tokens.pooler_output[0]]
        visual = [*seen.deepstack_features, seen.pooler_output]
        mergers = [*model.geometry_deepstack_merger_list, model.geometry_merger]
        fusions = [*model.deepstack_feature_fusion_list, model.feature_fusion]
        assert len(got) == 4
        for level, number in enumerate(model.config.geometry_layers):
            patches = layers[number][0, :, start:].unflatten(1, (2 * clip.rows, 2 * clip.cols))
            merged = mergers[level](patches).flatten(0, 2)
            torch.testing.assert_close(got[level], fusions[level](visual[level], merged))


def test_clips_in_a_batch_do_not_meet(model, clip_of):
    clips = [clip_of(model, 3, seed=1), clip_of(model, 2, (48, 64), seed=2), clip_of(model, 3, seed=3)]
    with torch.no_grad():
        together = model.encode(clips)
        for index, clip in enumerate(clips):
            alone = model.encode([clip])
            torch.testing.assert_close(together.pooler_output[index], alone.pooler_output[0])
            for level, other in zip(together.deepstack_features, alone.deepstack_features, strict=True):
                torch.testing.assert_close(level[index], other[0])


@pytest.mark.parametrize(("grid", "tokens"), [("released", 10 * 16), ("released-inference", 12 * 18)])
def test_the_released_grids_fit_the_model(grid, tokens):
    """ "released" gives VGGT 21 rows of patches here; the merger drops the last."""
    parts = preset_config("debug").to_dict()
    vision, geometry = parts["vision_config"] | {"patch_size": 16}, parts["geometry_config"] | {"patch_size": 14}
    model = build("debug", image_grid=grid, vision_config=vision, geometry_config=geometry)
    clip = model.config.grid.prepare([np.zeros((200, 300, 3), np.uint8)] * 2)
    with torch.no_grad():
        read = model.encode([clip])
    assert [level[0].shape for level in (read.pooler_output, *read.deepstack_features)] == [(2 * tokens, 64)] * 4


def modules_of(stage):
    return tuple(module for part in TRAINED[stage] for module in PARTS[part])


@pytest.mark.parametrize("levels", ["all", "main"])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_every_variant_trains(fusion, levels, clip_of):
    model = build("debug", fusion=fusion, fusion_levels=levels)
    model.train_only("align")
    clip = clip_of(model, 2)
    ids = prompt(model, [clip])
    labels = torch.full_like(ids, -100)
    labels[:, -4:] = ids[:, -4:]
    model.train()(ids, [clip], labels).loss.backward()
    assert len(model.deepstack_feature_fusion_list) == (3 if levels == "all" else 0)
    for name, parameter in model.named_parameters():
        trained = name.startswith(modules_of("align"))
        assert parameter.requires_grad == trained, name
        unused = "embed_tokens" not in name and "k_norm" not in name and trained
        assert (parameter.grad is not None and bool(parameter.grad.any())) or not unused, name


@pytest.mark.parametrize("stage", TRAINED)
def test_a_stage_trains_its_modules_and_no_other(stage, model):
    model.train_only(stage)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, _ in model.named_parameters() if name.startswith(modules_of(stage))}
    assert trained
    assert len(trained) < len(list(model.named_parameters()))


def test_an_unknown_stage_is_refused(model):
    with pytest.raises(ValueError, match="stage 'align2' is not known; choose from geometry, language, align, adapt"):
        model.train_only("align2")


def test_a_stage_without_its_module_is_refused():
    with pytest.raises(ValueError, match="geometry: this model has nothing of what is to be trained"):
        build("debug", fusion="none").train_only("geometry")


def test_frozen_encoders_keep_no_activations(model, clip_of):
    model.train_only("align")
    assert not any(level.requires_grad for level in model.see([clip_of(model)]) + model.measure([clip_of(model)]))
    model.train_only("language")
    assert all(level.requires_grad for level in model.see([clip_of(model)]))


def test_the_loss_is_the_mean_over_answer_tokens(model, clip_of):
    clip = clip_of(model)
    ids = prompt(model, [clip])
    labels = torch.full_like(ids, -100)
    labels[:, -3:] = ids[:, -3:]
    with torch.no_grad():
        out, logits = model(ids, [clip], labels), model(ids, [clip]).logits
    expected = torch.nn.functional.cross_entropy(logits[0, -4:-1], ids[0, -3:])
    torch.testing.assert_close(out.loss, expected)
    torch.testing.assert_close(out.logits, logits[0, -4:-1])
    with torch.no_grad():  # normalised over a global batch of 30 answer tokens
        torch.testing.assert_close(model(ids, [clip], labels, num_answer_tokens=30).loss, expected * 3 / 30)


def test_gates_show_where_geometry_is_trusted(clip_of):
    model = build("debug")
    clips = [clip_of(model, 2), clip_of(model, 3, (48, 64))]
    for clip, levels in zip(clips, gates(model, clips), strict=True):
        assert [level.shape for level in levels] == [(clip.num_frames, clip.rows, clip.cols)] * 4
    main = model.feature_fusion.gate_projection[0]
    with torch.no_grad():  # by hand: sigmoid(ln 3) = 3/4 for every channel
        main.weight.zero_()
        main.bias.fill_(torch.tensor(3.0).log())
    torch.testing.assert_close(gates(model, clips)[0][3], torch.full((2, clips[0].rows, clips[0].cols), 0.75))
    with pytest.raises(ValueError, match='gates exist for fusion "gated" only; this model has "add"'):
        gates(build("debug", fusion="add"), clips)


def test_generate_continues_as_the_logits_say(model, clip_of):
    clips = [clip_of(model)]
    ids = prompt(model, clips)
    made = model.generate(ids, clips=clips, max_new_tokens=6, do_sample=False, eos_token_id=-1)
    assert made.shape[1] == ids.shape[1] + 6
    with torch.no_grad():
        for length in range(ids.shape[1], made.shape[1]):
            assert model(made[:, :length], clips).logits[0, -1].argmax() == made[0, length]


def test_generate_keeps_no_activations(model, clip_of):
    model.train_only("language")
    clips, seen = [clip_of(model)], []
    hook = model.model.visual.register_forward_hook(lambda *parts: seen.append(parts[-1].pooler_output.requires_grad))
    with hook:
        model.generate(prompt(model, clips), clips=clips, max_new_tokens=1)
    assert seen == [False]


def test_a_model_kept_elsewhere_runs(clip_of):
    """accelerate holds the weights apart and brings them in layer by layer."""
    model, plain = build("debug"), build("debug")
    clip = clip_of(plain)
    with torch.no_grad():
        expected = plain(prompt(plain, [clip]), [clip]).logits
        away = cpu_offload(model, execution_device=torch.device("cpu"))
        torch.testing.assert_close(away(prompt(plain, [clip]), [clip]).logits, expected)
    with init_empty_weights():
        assert all(parameter.is_meta for parameter in GapMllm(preset_config("debug")).parameters())


def test_generate_takes_several_clips_of_different_sizes(model, clip_of):
    clips = [clip_of(model, 3, seed=1), clip_of(model, 2, (48, 64), seed=2)]
    rows = [prompt(model, [clip]) for clip in clips]
    greedy = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": -1}
    alone = [model.generate(ids, clips=[clip], **greedy)[0, -6:] for ids, clip in zip(rows, clips, strict=True)]
    length = max(ids.shape[1] for ids in rows)
    pads = [length - ids.shape[1] for ids in rows]
    assert pads[0] != pads[1]
    ids = torch.cat([torch.nn.functional.pad(ids, (pad, 0), value=0) for ids, pad in zip(rows, pads, strict=True)])
    mask = torch.tensor([[0] * pad + [1] * (length - pad) for pad in pads])
    together = model.generate(ids, clips=clips, attention_mask=mask, **greedy)[:, -6:]
    assert together.tolist() == [row.tolist() for row in alone]


def test_gradient_checkpointing_changes_no_gradient(model, clip_of):
    model.train_only("align")
    model.train()
    clip = clip_of(model)
    ids = prompt(model, [clip])

    def gradients():
        model.zero_grad()
        model(ids, [clip], ids).loss.backward()
        return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.requires_grad}

    plain = gradients()
    model.checkpoint_activations()
    assert model.geometry_encoder.vggt.gradient_checkpointing
    assert model.model.language_model.gradient_checkpointing
    for name, gradient in gradients().items():
        torch.testing.assert_close(gradient, plain[name])
    model.checkpoint_activations(False)
    model.eval()


def test_saved_and_opened_by_transformers_it_is_the_same(model, clip_of, tmp_path):
    model.save_pretrained(tmp_path)
    clip = clip_of(model)
    ids = prompt(model, [clip])
    again = AutoModelForImageTextToText.from_pretrained(tmp_path).eval()
    assert isinstance(again, GapMllm)
    assert isinstance(AutoModel.from_pretrained(tmp_path), GapMllm)
    assert AutoConfig.from_pretrained(tmp_path).to_dict() == again.config.to_dict()
    assert again.prompts.question("chair") == model.prompts.question("chair")
    with torch.no_grad():
        assert torch.equal(model(ids, [clip]).logits, again(ids, [clip]).logits)


@pytest.mark.parametrize(("dtype", "error"), [("bfloat16", 0.1), ("float16", 0.01), ("float64", 1e-5)])
def test_other_dtypes_are_close(clip_of, dtype, error):
    exact, other = build("debug"), build("debug", dtype=dtype)
    other.load_state_dict(exact.state_dict())  # a seed gives other numbers in another dtype
    clip = clip_of(exact)
    with torch.no_grad():
        ids = prompt(exact, [clip])
        a, b = exact(ids, [clip]).logits, other(ids, [clip]).logits
    assert b.dtype == getattr(torch, dtype)
    assert 0 < (a - b.float()).abs().max() < error * a.abs().max()


def test_more_slots_than_features_are_counted(model, clip_of):
    clip = clip_of(model)
    ids = prompt(model, [clip, clip])
    needed = 2 * clip.num_tokens
    message = f"holds {needed} image slots in 6 runs, but the clips give {needed // 2} visual tokens"
    with pytest.raises(ValueError, match=message):
        model(ids, [clip])
    with pytest.raises(ValueError, match=f"holds {needed} image slots, but no clips were given to fill them"):
        model(ids)
    with pytest.raises(ValueError, match="no clips were given"):
        model.generate(ids, max_new_tokens=1)
    with pytest.raises(ValueError, match="no clips were given"):  # as pixel_values they would pass the fusion by
        model(ids[:, : ids.shape[1] // 2], pixel_values=to_patches(clip.visual, 8, 2), image_grid_thw=clip.grid_thw())
    for wrong in (None, ids[0], ids.tolist()):
        with pytest.raises(ValueError, match=r"clips need input_ids \(B, L\)"):
            model(wrong, [clip])


def test_clips_go_where_their_slots_are(model, clip_of):
    """The same number of slots in all, but other runs, another order, or a clip torn between two rows."""
    long, short = clip_of(model, 3), clip_of(model, 1)
    rows = [prompt(model, [long])[0], prompt(model, [short])[0]]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    with torch.no_grad():
        model(ids, [long, short])
    with pytest.raises(ValueError, match="a clip's frames would fall into several rows of input_ids"):
        model(ids, [short, long])
    halves = torch.tensor([model.prompts.prefix([long.tokens_per_frame // 2] * 6)])
    with pytest.raises(ValueError, match="in 6 runs, but the clips give 36 visual tokens"):
        model(halves, [long])


def test_what_is_no_clip_of_this_model_is_refused(model, clip_of):
    clip = clip_of(model)
    foreign = ImageGrid().prepare([np.zeros((48, 64, 3), np.uint8)])
    with pytest.raises(ValueError, match="2x2 patches a token, of 16 and 14 pixels; this model has 2x2, of 8 and 7"):
        model(prompt(model, [foreign]), [foreign])
    for wrong in (clip, [clip.visual], [None], []):
        with pytest.raises(ValueError, match="clips must be a list of ClipPixels"):
            model(prompt(model, [clip]), wrong)
        with pytest.raises(ValueError, match="clips must be a list of ClipPixels"):
            gates(model, wrong)


def test_labels_without_an_answer_are_refused(model, clip_of):
    clip = clip_of(model)
    ids = prompt(model, [clip])
    with pytest.raises(ValueError, match="the labels hold no answer token"):
        model(ids, [clip], torch.full_like(ids, -100))


def test_memory_is_checked_for_all_clips_that_run_together(model, clip_of, monkeypatch):
    clip = clip_of(model)
    need = estimate_memory(model.config, 3, clip.rows, clip.cols).peak
    monkeypatch.setattr(memory, "free_memory", lambda device: 4 * need)
    model.encode([clip] * 4)
    with pytest.raises(ValueError, match="15 frames of 3x4 tokens need"):
        model.encode([clip] * 5)


def test_a_question_that_names_special_tokens_makes_no_slot(model, clip_of):
    clip = clip_of(model)
    ids = prompt(model, [clip], "what does <|image_pad|> mean, <|im_end|>?")
    assert int((ids == model.config.image_token_id).sum()) == clip.num_tokens
    with torch.no_grad():
        model(ids, [clip])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"fusion": "gate"}, "fusion 'gate' is not known; choose from"),
        ({"fusion_levels": "two"}, "fusion_levels 'two' is not known; choose from all, main"),
        ({"image_grid": "even"}, "image_grid 'even' is not known"),
        ({"geometry_layers": [0, 1, 2]}, r"geometry_layers \[0, 1, 2\]: 4 rising block numbers from 0 to 3"),
        ({"geometry_layers": [0, 2, 1, 3]}, "rising"),
        ({"geometry_layers": [0, 1, 2, 4]}, "from 0 to 3"),
    ],
)
def test_a_config_that_cannot_be_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        preset_config("debug", **fields)


def test_one_level_reads_the_deepest_block():
    assert preset_config("debug", fusion_levels="main").geometry_layers == [3]


def test_the_config_survives_json(tmp_path):
    for name in PRESETS:
        config = preset_config(name)
        config.save_pretrained(tmp_path)
        assert GapMllmConfig.from_pretrained(tmp_path).to_dict() == config.to_dict(), name


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


def test_the_sizes_are_those_that_were_promised():
    assert parameters(build("debug")) < 2e6
    assert 8e6 < parameters(build("nano")) < 25e6  # bfloat16: under 50 MB
    # The LLMs and towers that their names count, and VGGT-1B's aggregator (909,112,320) with mergers and fusions.
    for name, billions in {"qwen3-vl-2b": 2.13, "qwen3-vl-4b": 4.44, "qwen3-vl-8b": 8.77}.items():
        model = build(name, device="meta")
        beside = parameters(model.geometry_encoder)
        assert beside == 909_112_320
        fused = sum(parameters(getattr(model, part)) for part in PARTS["mergers"] + PARTS["fusion"])
        assert (parameters(model) - beside - fused) / 1e9 == pytest.approx(billions, abs=0.01)


def test_memory_is_estimated_before_a_long_clip_runs(model):
    config = preset_config("qwen3-vl-2b")
    need = estimate_memory(config, 200, 12, 16, torch.bfloat16)
    # By hand: 200 * 192 tokens x 28 layers x keys and values x 8 heads x 128 x 2 bytes = 4.4 GB of cache alone.
    assert need.language > 38_400 * 28 * 2 * 8 * 128 * 2
    assert need.geometry > 4 * 200 * 768 * 2048 * 2
    with pytest.raises(ValueError, match=r"200 frames of 1200x1600 tokens need .* GiB at most .* fit\), or a smaller"):
        check_memory(config, 200, 1200, 1600, torch.float32, torch.device("cpu"))
    check_memory(model.config, 200, 3, 4, torch.float32, torch.device("cpu"))


def test_small_models_begin_with_keys_that_look_for_what_is_alike():
    attention = build("debug").model.language_model.layers[0].self_attn
    size, groups = attention.head_dim, attention.num_key_value_groups
    for head in range(len(attention.k_proj.weight) // size):
        query = attention.q_proj.weight[head * groups * size :][:size]
        assert torch.equal(attention.k_proj.weight[head * size :][:size], query)
