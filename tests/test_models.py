import argparse
import math
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

import nclib.models
import nclib.optim
from nclib.heads import simplex_etf
from nclib.models import ARCHITECTURES, build_model, load_released_state_dict, trainable_parameters

# arch -> channels -> (learned, ETF with d = K) trainable parameters at K = 10, from the paper
COUNTS = {
    "resnet18": {1: (11_172_810, 8_858_610), 3: (11_173_962, 8_859_762)},
    "resnet50": {1: (23_519_690, 22_472_178), 3: (23_520_842, 22_473_330)},
    "vgg16": {1: (14_727_114, 12_407_272), 3: (14_728_266, 12_408_424)},
    "vgg19": {1: (20_039_370, 17_719_528), 3: (20_040_522, 17_720_680)},
}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def narrow(arch="resnet18", *, seed=0, **options):
    options = {"in_channels": 3, "num_classes": 10, "width": 4} | options
    return build_model(arch, generator=seeded(seed), **options)


def on_meta(arch, **options):
    with torch.device("meta"):
        return build_model(arch, **({"in_channels": 3, "num_classes": 10} | options))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("arch", COUNTS)
def test_trainable_parameters_are_the_papers(arch, channels):
    learned, etf = COUNTS[arch][channels]
    assert trainable_parameters(on_meta(arch, in_channels=channels)) == learned
    assert trainable_parameters(on_meta(arch, in_channels=channels, head="etf", feature_dim=10)) == etf


RESNETS = ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "wide_resnet50_2"]


@pytest.mark.parametrize("arch", RESNETS)
def test_resnets_have_torchvisions_names_and_shapes(arch):
    with torch.device("meta"):
        theirs = torchvision.models.get_model(arch, num_classes=10)
    ours = on_meta(arch, stem="imagenet").state_dict()
    expected = {
        f"head.{name[3:]}" if name.startswith("fc.") else f"backbone.{name}": value.shape
        for name, value in theirs.state_dict().items()
    }
    assert {name: value.shape for name, value in ours.items()} == expected


def test_wide_resnet_is_the_one_of_depth_26_and_160_channels():
    model = on_meta("wide_resnet")
    stages = [model.backbone.get_submodule(f"layer{stage}") for stage in (1, 2, 3)]
    assert [len(stage) for stage in stages] == [4, 4, 4]
    assert model.backbone.feature_dim == 640
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert len(convolutions) == 25  # the linear layer is the 26th
    weights = 3 * 16 * 9  # stem
    for fan_in, fan_out in [(16, 160), (160, 320), (320, 640)]:
        weights += 9 * fan_in * fan_out + 7 * 9 * fan_out**2 + fan_in * fan_out  # 3 x 3 ones and the 1 x 1 shortcut
    assert sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Conv2d)) == weights


@pytest.mark.parametrize(("arch", "parameters"), [("vgg11", 9_231_114), ("vgg13", 9_416_010)])
def test_shorter_vggs_have_the_released_codes_parameters_and_torchvisions_names(arch, parameters):
    model = on_meta(arch)
    with torch.device("meta"):
        theirs = torchvision.models.get_model(f"{arch}_bn").features.state_dict()
    assert trainable_parameters(model) == parameters
    assert {name: value.shape for name, value in model.backbone.features.state_dict().items()} == {
        name: value.shape for name, value in theirs.items()
    }


@pytest.mark.parametrize("feature_dim", [1, 9, 40])
@pytest.mark.parametrize("arch", ["resnet18", "resnet50", "vgg16", "mlp", "wide_resnet"])
def test_feature_dim_changes_the_last_block_alone(arch, feature_dim):
    size = {"image_size": 8} if arch == "mlp" else {}
    natural = on_meta(arch, width=4, **size)
    model = on_meta(arch, width=4, feature_dim=feature_dim, **size)
    assert model.head.weight.shape == (10, feature_dim)
    last = {"resnet18": "layer4.1", "resnet50": "layer4.2", "wide_resnet": "layer3.3"}
    start = {"vgg16": ("features.40", "features.41"), "mlp": ("layers.15", "layers.16")}.get(arch, last.get(arch))
    changed = {
        name
        for name, value in model.backbone.state_dict().items()
        if (old := natural.backbone.state_dict().get(name)) is None or old.shape != value.shape
    }
    assert changed and all(name.startswith(start) for name in changed)


@pytest.mark.parametrize(
    ("arch", "block", "parameters"), [("resnet18", "layer4.1", 11_437_130), ("resnet34", "layer4.2", 21_545_290)]
)
def test_a_given_natural_feature_dim_adds_the_released_codes_shortcut(arch, block, parameters):
    """`--fixdim 512`: a 1 x 1 convolution and batch norm beside the last block; without the option there is neither."""
    plain, fixed = on_meta(arch).state_dict(), on_meta(arch, feature_dim=512)
    added = {name for name in fixed.state_dict() if name not in plain}
    assert {name.split(".downsample.")[0] for name in added} == {f"backbone.{block}"}
    assert trainable_parameters(fixed) == parameters


@pytest.mark.parametrize("stem", ["small", "imagenet"])
@pytest.mark.parametrize(("size", "channels"), [(8, 1), (16, 3), (28, 1), (64, 3), (84, 3)])
def test_resnets_take_small_and_large_images(size, channels, stem):
    model = narrow(in_channels=channels, stem=stem)
    logits, features = model(torch.rand(2, channels, size, size, generator=seeded()))
    assert logits.shape == (2, 10)
    assert features.shape == (2, 32)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize(
    ("arch", "options", "size"),
    [
        ("resnet34", {}, 16),
        ("resnet50", {"feature_dim": 10}, 16),
        ("vgg16", {}, 32),
        ("vgg16", {"in_channels": 1, "feature_dim": 9}, 56),
        ("vgg19", {}, 64),
        ("vgg11", {}, 32),
        ("wide_resnet50_2", {"feature_dim": 32}, 16),
        ("mlp", {"image_size": (8, 8), "depth": 2, "feature_dim": 7}, 8),
        ("mlp_norm_last", {"image_size": 8, "depth": 2}, 8),
        ("wide_resnet", {"depth": 8, "feature_dim": 5}, 16),
    ],
)
def test_every_architecture_trains_a_step(arch, options, size):
    model = narrow(arch, **options)
    images = torch.rand(3, options.get("in_channels", 3), size, size, generator=seeded())
    logits, features = model(images)
    assert features.shape == (3, model.backbone.feature_dim)
    torch.testing.assert_close(logits, F.linear(features, model.head.weight, model.head.bias))
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_stem_imagenet_halves_twice_before_the_first_stage():
    shapes = {}
    for stem in ("small", "imagenet"):
        model = narrow(stem=stem)
        model.backbone.layer1.register_forward_hook(
            lambda _, inputs, __, stem=stem: shapes.update({stem: inputs[0].shape[-1]})
        )
        model(torch.zeros(2, 3, 32, 32))
    assert shapes == {"small": 32, "imagenet": 8}


def test_etf_head_is_fixed_and_its_bias_trains():
    model = narrow(head="etf", feature_dim=10)
    assert [name for name, _ in model.head.named_parameters()] == ["bias"]
    gram = model.head.weight @ model.head.weight.T
    torch.testing.assert_close(gram, torch.eye(10) * 10 / 9 - 1 / 9)
    assert not list(narrow(head="etf", feature_dim=9, bias=False).head.parameters())
    assert narrow(bias=False).head.bias is None


def test_etf_needs_k_minus_one_dimensions():
    message = r"Expected head 'etf' to have feature_dim >= num_classes - 1 = 9, but got 5\."
    with pytest.raises(ValueError, match=message):
        build_model("resnet18", in_channels=3, num_classes=10, head="etf", feature_dim=5)
    with pytest.raises(ValueError, match="= 99, but got 32"):
        narrow(head="etf", num_classes=100)


@pytest.mark.parametrize(
    ("arch", "options", "message"),
    [
        ("resnet20", {}, "Expected arch to be one of resnet18, .*, but got 'resnet20'"),
        ("resnet18", {"head": "fixed"}, "Expected head to be one of learned, etf, but got 'fixed'"),
        (
            "resnet18",
            {"stem": "large"},
            "Expected stem of .* to be 'small' or 'imagenet', but got 'large'",
        ),
        ("vgg16", {"stem": "imagenet"}, "Expected stem of arch 'vgg16' to be 'small', but got 'imagenet'"),
        ("resnet18", {"depth": 3}, "Expected no depth for arch 'resnet18', whose name fixes it, but got 3"),
        ("wide_resnet", {"depth": 28}, r"one of 8, 14, 20, 26, \.\.\., 98, but got 28"),
        ("resnet18", {"num_classes": 1}, "Expected num_classes to be at least 2, but got 1"),
        ("resnet18", {"in_channels": 0}, "Expected in_channels to be at least 1, but got 0"),
        ("resnet18", {"feature_dim": 0}, "Expected feature_dim to be at least 1, but got 0"),
        ("mlp", {}, "Expected image_size for arch 'mlp'"),
        ("vgg16", {"image_size": (28, 56)}, "at least 32 x 32 pixels for arch 'vgg16', but got 28 x 56"),
    ],
)
def test_impossible_networks_are_refused(arch, options, message):
    with pytest.raises(ValueError, match=message):
        narrow(arch, **options)


def test_names_defaults_and_limits_are_known_without_torch_or_the_companion():
    code = (
        "import sys, nclib.optim, nclib.models.architectures as known\n"
        "print(known.ARCHITECTURES['mlp'].features(), {'torch', 'nclib.study'} & set(sys.modules))\n"
        "import nclib.study.parameters, nclib.study.registry\n"
        "print('torch' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines() == ["512 set()", "False"]
    for package in (nclib.models, nclib.optim):
        assert all(hasattr(package, name) for name in package.__all__) and not hasattr(package, "nothing")


def test_images_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"at least 32 x 32 pixels for arch 'vgg16', but got 16 x 16"):
        narrow("vgg16")(torch.zeros(2, 3, 16, 16))
    with pytest.raises(
        ValueError, match=r"channels x height x width = 192 for this mlp, but got 108 of shape \(3, 6, 6\)"
    ):
        narrow("mlp", image_size=8)(torch.zeros(2, 3, 6, 6))


@pytest.mark.parametrize("head", ["learned", "etf"])
def test_features_and_logits_are_float32_under_autocast(head):
    model = narrow(head=head).eval()
    images = torch.rand(4, 3, 16, 16, generator=seeded())
    seen = []
    model.backbone.layer4.register_forward_hook(lambda _, __, output: seen.append(output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        logits, features = model(images)
    assert seen == [torch.bfloat16]
    assert logits.dtype == features.dtype == torch.float32
    assert not torch.equal(features, features.bfloat16().float())  # the mean over positions keeps its digits
    assert torch.equal(logits, F.linear(features, model.head.weight, model.head.bias))


def test_double_stays_double():
    logits, features = narrow().double()(torch.rand(2, 3, 8, 8, dtype=torch.float64))
    assert logits.dtype == features.dtype == torch.float64


@pytest.mark.parametrize("arch", [arch for arch in ARCHITECTURES if arch not in ("resnet101", "resnet152")])
def test_one_seed_is_one_network_whatever_the_global_state(arch):
    options = {"image_size": 8} if arch.startswith("mlp") else {}
    before = torch.get_rng_state()
    model, other = narrow(arch, seed=1, **options), narrow(arch, seed=2, **options)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    again = narrow(arch, seed=1, **options)
    for (name, value), repeated, differing in zip(
        model.state_dict().items(), again.state_dict().values(), other.state_dict().values(), strict=True
    ):
        assert torch.equal(value, repeated)
        if name.endswith("weight") and value.ndim > 1:
            assert not torch.equal(value, differing)


def test_without_generator_the_global_one_is_used():
    def first_weight():
        torch.manual_seed(3)
        return build_model("resnet18", in_channels=1, num_classes=2, width=2).backbone.conv1.weight

    with torch.random.fork_rng():
        assert torch.equal(first_weight(), first_weight())


def test_initial_values_are_the_released_codes():
    resnet = build_model("resnet18", in_channels=3, num_classes=10, width=16, generator=seeded())
    weight = resnet.backbone.layer4[1].conv2.weight  # 128 x 128 x 3 x 3
    assert weight.std().item() == pytest.approx(math.sqrt(2 / (128 * 9)), rel=0.01)
    assert weight.abs().max() > 3.5 * weight.std()  # normal, not uniform
    for norm in (m for m in resnet.modules() if isinstance(m, nn.BatchNorm2d)):
        assert (norm.weight == 1).all() and (norm.bias == 0).all() and (norm.running_var == 1).all()
    vgg = build_model("vgg16", in_channels=3, num_classes=10, width=16, generator=seeded())
    for layer in (vgg.backbone.features[40], vgg.head, resnet.head):
        bound = 1 / math.sqrt(layer.weight[0].numel())
        for values in (layer.weight, layer.bias):
            assert 0.7 * bound < values.abs().max() <= bound
    etf = build_model("resnet18", in_channels=3, num_classes=10, width=8, head="etf", generator=seeded())
    assert 0.5 / 8 < etf.head.bias.abs().max() <= 1 / 8  # 64 features


def test_meta_device_builds_shapes_only():
    model = on_meta("resnet50", head="etf")
    assert {value.device.type for value in model.state_dict().values()} == {"meta"}
    assert model(torch.zeros(2, 3, 32, 32, device="meta"))[1].shape == (2, 2048)


def test_channels_last_gives_the_same():
    model = narrow().eval()
    images = torch.rand(2, 3, 16, 16, generator=seeded())
    expected = model(images)
    got = model.to(memory_format=torch.channels_last)(images.to(memory_format=torch.channels_last))
    torch.testing.assert_close(got, expected)


# Weights of the released code


def released_names(model, last="fc"):
    """The state dict of our model under the names of the released code."""
    return {
        name.replace("backbone.", "", 1).replace("head.", f"{last}.", 1): value.clone()
        for name, value in model.state_dict().items()
    }


@pytest.mark.parametrize("feature_dim", [None, 512])
def test_released_resnet_computes_as_torchvisions(tmp_path, feature_dim):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = torchvision.models.resnet18(num_classes=10).eval()
        if feature_dim:  # what the released code's `--fixdim` adds to it
            shortcut = nn.Sequential(nn.Conv2d(512, feature_dim, 1, bias=False), nn.BatchNorm2d(feature_dim))
            theirs.layer4[1].downsample = shortcut.eval()
    torch.save(theirs.state_dict(), tmp_path / "epoch_200.pth")
    model = narrow(width=64, stem="imagenet", feature_dim=feature_dim, seed=1).eval()
    load_released_state_dict(model, tmp_path / "epoch_200.pth")
    images = torch.rand(2, 3, 40, 40, generator=seeded())
    with torch.no_grad():
        torch.testing.assert_close(model(images)[0], theirs(images))


def test_paper_1_checkpoint_with_arguments_and_etf(tmp_path):
    saved = narrow(head="etf", feature_dim=10, in_channels=1)
    weight = math.sqrt(10 / 9) * (torch.eye(10) - torch.ones(10, 10) / 10)
    weight /= torch.sqrt(weight.norm() ** 2 / 10)  # unit rows
    state = released_names(saved) | {"fc.weight": weight}
    arguments = argparse.Namespace(arch="resnet18", lr=0.1, etf=True, device=torch.device("cpu"))
    torch.save(
        {"args": arguments, "epoch": 199, "state_dict": state, "test_acc": np.float64(0.9)}, tmp_path / "model_last.pth"
    )
    model = narrow(head="etf", feature_dim=10, in_channels=1, seed=1)
    load_released_state_dict(model, tmp_path / "model_last.pth")
    torch.testing.assert_close(model.head.weight, simplex_etf(10, 10))
    assert torch.equal(model.backbone.layer4[1].conv2.weight, saved.backbone.layer4[1].conv2.weight)
    assert torch.equal(model.head.bias, saved.head.bias)


def test_data_parallel_vgg_without_counters(tmp_path):
    saved = narrow("vgg16")
    state = {f"module.{name}": value for name, value in released_names(saved, "classifier").items()}
    state = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    assert "module.classifier.weight" in state and "module.features.0.weight" in state
    torch.save(state, tmp_path / "vgg.pth")
    model = narrow("vgg16", seed=1)
    load_released_state_dict(model, str(tmp_path / "vgg.pth"))
    for name, value in saved.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name


def released_mlp(*, norm_last):
    """Both papers' MLPs, built from their layers: paper 1 nests linear, ReLU and batch norm, paper 2 has one list."""
    nested = [[nn.Linear(12, 6), nn.ReLU(), nn.BatchNorm1d(6)], [nn.Linear(6, 6), nn.ReLU(), nn.BatchNorm1d(6)]]
    if norm_last:
        layers = [nn.Sequential(*layer) for layer in nested]
    else:
        layers = [layer for linear, relu, norm in nested for layer in (linear, norm, relu)]
    return nn.ModuleDict({"layers": nn.Sequential(*layers), "fc": nn.Linear(6, 3)})


@pytest.mark.parametrize("arch", ["mlp", "mlp_norm_last"])
def test_released_mlps_compute_the_same(tmp_path, arch):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = released_mlp(norm_last=arch == "mlp_norm_last")
    torch.save(theirs.state_dict(), tmp_path / "mlp.pth")
    model = build_model(arch, in_channels=3, num_classes=3, width=6, depth=2, image_size=2)
    load_released_state_dict(model, tmp_path / "mlp.pth")
    images = torch.rand(5, 3, 2, 2, generator=seeded())
    features = theirs["layers"](images.flatten(1))
    torch.testing.assert_close(model(images), (theirs["fc"](features), features))
    assert (features < 0).any() == (not ARCHITECTURES[arch].ends_in_relu)


def test_shortcuts_of_the_released_resnets_of_any_width_are_read(tmp_path):
    saved = narrow(seed=1)
    state = {name.replace("downsample", "shortcut"): value for name, value in released_names(saved).items()}
    assert "layer2.0.shortcut.0.weight" in state
    torch.save(state, tmp_path / "adapt.pth")
    model = narrow()
    load_released_state_dict(model, tmp_path / "adapt.pth")
    assert torch.equal(model.backbone.layer2[0].downsample[0].weight, saved.backbone.layer2[0].downsample[0].weight)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("layer2.0.conv1.weight"), r"1 missing: backbone\.layer2\.0\.conv1\.weight"),
        (lambda s: s.update({"extra": torch.ones(1)}), r"1 unexpected: backbone\.extra"),
        (
            lambda s: s.update({"fc.weight": torch.ones(10, 7)}),
            r"1 of another shape: head\.weight has \(10, 7\), not \(10, 32\)",
        ),
        (lambda s: s.update({"epoch": 3}), "to hold a state dict"),
        (lambda s: s.clear(), "to hold a state dict"),
    ],
)
def test_weights_that_do_not_fit_are_refused_and_nothing_changes(tmp_path, change, message):
    state = released_names(narrow(seed=1))
    change(state)
    torch.save(state, tmp_path / "weights.pth")
    model = narrow()
    before = released_names(model)
    with pytest.raises(ValueError, match=message):
        load_released_state_dict(model, tmp_path / "weights.pth")
    assert all(torch.equal(value, before[name]) for name, value in released_names(model).items())


def test_learned_last_layer_is_refused_for_an_etf_model(tmp_path):
    torch.save(released_names(narrow(seed=1)), tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"to be a simplex ETF for a model with head 'etf'.*'learned'"):
        load_released_state_dict(narrow(head="etf"), tmp_path / "weights.pth")


class Runs:
    """Its pickle would create a file when read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_damaged_or_dangerous_files_are_refused(tmp_path):
    path = tmp_path / "weights.pth"
    with pytest.raises(FileNotFoundError, match="but there is no such file"):
        load_released_state_dict(narrow(), path)
    torch.save(released_names(narrow(seed=1)), path)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:10], b"", b"not weights", pickle.dumps(Runs(tmp_path / "run"), 2)):
        path.write_bytes(content)
        with pytest.raises(
            ValueError, match=r"weights\.pth to be a checkpoint of tensors, but it cannot be read"
        ) as caught:
            load_released_state_dict(narrow(), path)
        assert "weights_only" not in str(caught.value)
    torch.save({"state_dict": Runs(tmp_path / "run")}, path)
    with pytest.raises(ValueError, match=r"weights\.pth .* \(it holds \w+\.open, which could run code") as caught:
        load_released_state_dict(narrow(), path)
    assert "weights_only" not in str(caught.value)
    assert not (tmp_path / "run").exists()
