"""The script that made `clip.npz` and the tokenizers in `clip/`: CLIP and SigLIP, drawn weights.

Run as `python -m tests.goldens.make_clip` with torch 2.13.0, transformers 5.23.0, tokenizers 0.23.3 and
sentencepiece 0.2.3. OpenAI's own model has no package: `OpenAiClip` below has its names and its arithmetic.
"""

import io
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
import tokenizers
import torch
import transformers
from tokenizers import normalizers, pre_tokenizers, processors, trainers
from torch import nn

from tests.goldens import draws

FILE, FOLDER = Path(__file__).parent / "clip.npz", Path(__file__).parent / "clip"
IMAGES, OTHER_IMAGES, NUM_TOKENS = (2, 32, 32, 3), (2, 48, 64, 3), 12
CORPUS = (
    "a photo of a cat", "a photo of a dog", "a photo of the small bird", "a picture of a tree",
    "it's a drawing of two cats and 3 dogs", "the old house by the river", "birds, flying over trees!",
)  # fmt: skip
TEXTS = (
    "a photo of a cat",
    "A Photo\tof the  small DOG! ",
    "it's 3 birds, flying (over the old house) by the river and the trees and a dog and a cat",
)
START, END = "<|startoftext|>", "<|endoftext|>"
PUNCTUATION = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"""


def main() -> None:
    """Write tokenizers and goldens."""
    FOLDER.mkdir(exist_ok=True)
    transformers.logging.set_verbosity_error()
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    text = {**vision, "hidden_size": 40, "intermediate_size": 80, "max_position_embeddings": NUM_TOKENS}
    vision |= {"image_size": IMAGES[1], "patch_size": 8}
    goldens: dict[str, np.ndarray] = {"texts": np.array(TEXTS)}
    clip_tokenizer = make_clip_tokenizer()
    text |= {"vocab_size": len(clip_tokenizer), "eos_token_id": clip_tokenizer.eos_token_id}
    for name, changes in {
        "clip": {},
        "clip_gelu": {"hidden_act": "gelu"},
        "clip_legacy": {"eos_token_id": 2},
    }.items():
        config = transformers.CLIPConfig(
            vision_config={**vision, **changes}, text_config={**text, **changes}, projection_dim=24
        )
        goldens |= two_towers(transformers.CLIPModel(config), name, clip_tokenizer)
    siglip_tokenizer = make_siglip_tokenizer()
    text |= {"vocab_size": siglip_tokenizer.vocab_size, "projection_size": 32, "eos_token_id": 1}
    config = transformers.SiglipConfig(vision_config=vision, text_config=text)
    goldens |= two_towers(transformers.SiglipModel(config), "siglip", siglip_tokenizer)
    goldens |= openai(clip_tokenizer)
    made_with = {"script": "tests/goldens/make_clip.py", "torch": torch.__version__, "numpy": np.__version__}
    made_with |= {each.__name__: each.__version__ for each in (transformers, tokenizers, sentencepiece)}
    goldens["made_with"] = np.array(json.dumps({**made_with, "python": sys.version.split()[0]}))
    np.savez_compressed(FILE, **goldens)
    sys.stdout.write(f"{len(goldens)} arrays, {FILE.stat().st_size} bytes, {made_with}\n")


def make_clip_tokenizer() -> Any:
    """Train CLIP's kind of byte-pair encoding, save it as `clip/clip.json`, and return transformers' own."""
    kind = transformers.CLIPTokenizer()
    trained = tokenizers.Tokenizer(tokenizers.models.BPE(end_of_word_suffix="</w>"))
    trained.normalizer, trained.pre_tokenizer = (
        kind.backend_tokenizer.normalizer,
        kind.backend_tokenizer.pre_tokenizer,
    )
    alphabet = [chr(code) for code in range(33, 127)]
    trainer = trainers.BpeTrainer(vocab_size=300, end_of_word_suffix="</w>", initial_alphabet=alphabet)
    trained.train_from_iterator([*CORPUS, *alphabet], trainer)
    model = json.loads(trained.to_str())["model"]
    # Sorted: the library numbers an alphabet in another order each time.
    pieces = [*sorted(model["vocab"]), START, END]
    made = transformers.CLIPTokenizer(
        vocab={piece: index for index, piece in enumerate(pieces)},
        merges=[tuple(each) for each in model["merges"]],
    )
    made.backend_tokenizer.save(str(FOLDER / "clip.json"))
    return made


def make_siglip_tokenizer() -> Any:
    """Train SigLIP's kind of unigrams, save it as `siglip.model` and `.json`; return transformers' own."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS * 4),
        model_writer=model,
        vocab_size=60,
        model_type="unigram",
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        normalization_rule_name="identity",
        hard_vocab_limit=False,
        minloglevel=2,
    )
    path = FOLDER / "siglip.model"
    path.write_bytes(model.getvalue())
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    scores = [
        (processor.id_to_piece(index), processor.get_score(index)) for index in range(processor.vocab_size())
    ]
    fast = tokenizers.Tokenizer(tokenizers.models.Unigram(scores, unk_id=2))
    fast.normalizer = normalizers.Sequence(
        [
            normalizers.Lowercase(),
            normalizers.Replace(tokenizers.Regex(PUNCTUATION), ""),
            normalizers.Replace(tokenizers.Regex(r"\s+"), " "),
            normalizers.Strip(),
        ]
    )
    fast.pre_tokenizer = pre_tokenizers.Metaspace()
    fast.post_processor = processors.TemplateProcessing("$A </s>", "$A </s> $B </s>", [("</s>", 1)])
    fast.save(str(FOLDER / "siglip.json"))
    return transformers.SiglipTokenizer(str(path))


def two_towers(model: Any, name: str, tokenizer: Any) -> dict[str, np.ndarray]:
    """Return both towers' layers, embeddings, logits and probabilities, on drawn weights and images."""
    goldens = drawn(model, name)
    ids = tokenizer(list(TEXTS), padding="max_length", max_length=NUM_TOKENS, truncation=True)["input_ids"]
    goldens[f"{name}/ids"] = np.array(ids)
    if name == "clip_legacy":
        # The largest id is not where another end of text would be.
        goldens[f"{name}/ids"] = draws.generator("ids").permuted(np.array(ids), axis=1)
    vision, text = model.vision_model, model.text_model
    first = {"image": getattr(vision, "pre_layrnorm", vision.embeddings), "text": text.embeddings}
    last = {"image": vision.post_layernorm, "text": text.final_layer_norm}
    layers: dict[str, nn.Module] = {}
    for tower, module in {"image": vision, "text": text}.items():
        layers |= {f"{tower}/block{index}": block for index, block in enumerate(module.encoder.layers)}
        layers |= {f"{tower}/embedding": first[tower], f"{tower}/encoder_norm": last[tower]}
    if "siglip" not in name:
        # CLIP's final norm sees the class token alone.
        del layers["image/encoder_norm"]
    inputs = {"input_ids": torch.from_numpy(goldens[f"{name}/ids"]), "pixel_values": torch_images(name)}
    outputs, sampled = watched(lambda: model.eval()(**inputs), layers)
    goldens |= {f"{name}/layers/{layer}": values for layer, values in sampled.items()}
    with torch.no_grad():
        resized = model.get_image_features(
            torch_images(name, OTHER_IMAGES), interpolate_pos_encoding=True
        ).pooler_output
    logits = outputs.logits_per_image
    probabilities = torch.sigmoid(logits) if "siglip" in name else logits.softmax(-1)
    goldens |= {
        f"{name}/resized_embeddings": nn.functional.normalize(resized, dim=-1).numpy(),
        f"{name}/image_embeddings": outputs.image_embeds.numpy(),
        f"{name}/text_embeddings": outputs.text_embeds.numpy(),
        f"{name}/logits": logits.numpy(),
        f"{name}/probabilities": probabilities.numpy(),
        f"{name}/config": np.array(json.dumps(model.config.to_dict())),
    }
    return goldens


def openai(tokenizer: Any) -> dict[str, np.ndarray]:
    """Return embeddings and logits of a model with OpenAI's names."""
    model = OpenAiClip(len(tokenizer))
    goldens = drawn(model, "openai")
    ids = tokenizer(list(TEXTS), padding="max_length", max_length=NUM_TOKENS, truncation=True)["input_ids"]
    goldens["openai/ids"] = np.array(ids)
    with torch.no_grad():
        image, text = model.visual(torch_images("openai")), model.encode_text(torch.tensor(ids))
        image, text = (each / each.norm(dim=-1, keepdim=True) for each in (image, text))
        logits = model.logit_scale.exp() * image @ text.T
    goldens["openai/image_embeddings"], goldens["openai/text_embeddings"] = image.numpy(), text.numpy()
    goldens["openai/logits"] = logits.numpy()
    return goldens


def drawn(model: nn.Module, name: str) -> dict[str, np.ndarray]:
    """Fill the model with drawn weights, and return the names and shapes they are drawn by."""
    shapes = {
        key: tuple(value.shape) for key, value in model.state_dict().items() if value.is_floating_point()
    }
    state = {
        key: torch.from_numpy(np.asarray(draws.tensor(name, key, shape))) for key, shape in shapes.items()
    }
    model.load_state_dict(state, strict=True)
    return {f"{name}/shapes": np.array(json.dumps(shapes))}


def watched(run: Callable[[], Any], layers: Mapping[str, nn.Module]) -> tuple[Any, dict[str, np.ndarray]]:
    """Return the outputs of a run without gradients, and samples of what each layer put out."""
    found: dict[str, np.ndarray] = {}

    def keep(layer: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            values = output[0] if isinstance(output, tuple) else output
            found[layer] = draws.sampled(layer, values.numpy())

        return hook

    handles = [module.register_forward_hook(keep(layer)) for layer, module in layers.items()]
    with torch.no_grad():
        outputs = run()
    for handle in handles:
        handle.remove()
    return outputs, found


def torch_images(name: str, shape: tuple[int, ...] = IMAGES) -> torch.Tensor:
    """Return the drawn images channels first."""
    return torch.from_numpy(draws.images(name, shape)).permute(0, 3, 1, 2).contiguous()


class Block(nn.Module):
    """A residual block with OpenAI's names."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = nn.MultiheadAttention(dim, 4, batch_first=True)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(dim, 2 * dim), "c_proj": nn.Linear(2 * dim, dim)})

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Return the tokens after attention and MLP."""
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, attn_mask=mask, need_weights=False)[0]
        y = self.mlp["c_fc"](self.ln_2(x))
        return x + self.mlp["c_proj"](y * torch.sigmoid(1.702 * y))


class Blocks(nn.Module):
    """Two blocks under the name `resblocks`."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList([Block(dim) for _ in range(2)])

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Return the tokens after all blocks."""
        for block in self.resblocks:
            x = block(x, mask)
        return x


class Visual(nn.Module):
    """The image tower with OpenAI's names."""

    def __init__(self) -> None:
        super().__init__()
        self.class_embedding = nn.Parameter(torch.zeros(32))
        self.positional_embedding = nn.Parameter(torch.zeros(17, 32))
        self.proj = nn.Parameter(torch.zeros(32, 24))
        self.conv1 = nn.Conv2d(3, 32, 8, 8, bias=False)
        self.ln_pre, self.ln_post = nn.LayerNorm(32), nn.LayerNorm(32)
        self.transformer = Blocks(32)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the images' embeddings."""
        x = self.conv1(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], dim=1)
        x = self.transformer(self.ln_pre(x + self.positional_embedding))
        return self.ln_post(x[:, 0]) @ self.proj


class OpenAiClip(nn.Module):
    """CLIP with the names of OpenAI's checkpoints."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.visual, self.transformer = Visual(), Blocks(40)
        self.token_embedding = nn.Embedding(vocabulary, 40)
        self.positional_embedding = nn.Parameter(torch.zeros(NUM_TOKENS, 40))
        self.ln_final = nn.LayerNorm(40)
        self.text_projection = nn.Parameter(torch.zeros(40, 24))
        self.logit_scale = nn.Parameter(torch.zeros(()))

    def encode_text(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the texts' embeddings."""
        mask = torch.full((NUM_TOKENS, NUM_TOKENS), -torch.inf).triu(1)
        x = self.ln_final(self.transformer(self.token_embedding(ids) + self.positional_embedding, mask))
        return x[torch.arange(len(x)), ids.argmax(-1)] @ self.text_projection


if __name__ == "__main__":
    main()
