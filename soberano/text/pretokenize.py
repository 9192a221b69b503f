# ruff: noqa: RUF001  patterns name fullwidth signs on purpose
"""How each family of byte-level BPE cuts text into words before any merge: the patterns behind `tokenizer.ggml.pre`.

A family is a tuple of patterns. The first cuts the text, the next cuts each piece, and so on; what a pattern matches
and what lies between two matches both become pieces. The patterns are those of the models' own tokenizer.json files, in
the spelling that llama.cpp runs (src/llama-vocab.cpp, llm_tokenizer_bpe), because its ids are the ones to reproduce.
Every name below has been compared with llama.cpp on random text; a name that is missing here has not.

The engine is Oniguruma: [a&&b] is an intersection of classes. Its Unicode tables are newer than llama.cpp's, so letters
that came after Unicode 15 may be cut differently.
"""

from dataclasses import dataclass

from tokenizers import Regex, pre_tokenizers

from soberano.core.errors import UnsupportedModel

_CONTRACTION = "'(?:[sS]|[tT]|[rR][eE]|[vV][eE]|[mM]|[lL][lL]|[dD])"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_DIGIT = r"\p{N}"

# GPT-2 (Radford et al. 2019, encoder.py): words, numbers and symbols, each with the space before it.
GPT2 = (r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",)
# StarCoder and SmolLM (HuggingFaceTB/SmolLM2 tokenizer.json): every digit alone, then GPT-2.
DIGITS_GPT2 = (_DIGIT, *GPT2)
# Llama 3 (tiktoken cl100k with its numbers): up to three digits; a word takes any one sign before it, not only a space.
LLAMA3 = (rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}",)
# Qwen 2: as Llama 3, but every digit alone. (Ling's own pattern says the same in other words.)
QWEN2 = (rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}",)
# Qwen 3.5: as Qwen 2, with combining marks as parts of words.
QWEN35 = (
    rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_SPACES}",
)
# A Turkish Qwen 2 without English contractions.
UFAKZEKA = (rf"[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}",)
# Seed-Coder: a line break never joins the signs before it.
SEED_CODER = (rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_SPACES}",)
# MiniCPM 5: numbers first, then as Llama 3.
MINICPM5 = (
    r"\p{N}{1,3}",
    rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}+| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}",
)
# Tekken (Mistral Nemo): a word ends where capitals begin again. Letters outside a to z and A to Z count as both cases,
# as in llama.cpp; the own pattern of the model knows the case of every letter.
_UPPER, _LOWER = r"[\p{L}&&[^a-z]]", r"[\p{L}&&[^A-Z]]"
_BEFORE = r"[^\r\n\p{L}\p{N}]?"
_REST = rf" ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
TEKKEN = (rf"{_BEFORE}{_UPPER}*{_LOWER}+|{_BEFORE}{_UPPER}+{_LOWER}*|\p{{N}}|{_REST}",)
# GPT-4o (tiktoken o200k): as Tekken, with contractions at the end of words and up to three digits.
GPT4O = (
    rf"{_BEFORE}{_UPPER}*{_LOWER}+(?:{_CONTRACTION})?|{_BEFORE}{_UPPER}+{_LOWER}*(?:{_CONTRACTION})?"
    rf"|\p{{N}}{{1,3}}|{_REST}",
)
# Falcon (tiiuae/falcon-7b tokenizer.json): signs, then GPT-2, then digits by three from the left.
FALCON = (r"[\p{P}$+<=>^~|`]+", *GPT2, "[0-9][0-9][0-9]")
# What llama.cpp takes for a file that names no pre-tokenizer.
DEFAULT = (r"[\p{P}$+<=>^~|]+", *GPT2, r"\p{N}+", "[0-9][0-9][0-9]")
# DeepSeek Coder: words, signs, scripts without spaces (llama.cpp takes the wide spaces out of that range), digits.
DEEPSEEK_CODER = (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", r"[[一-龥ࠀ-一가-퟿]&&\S]+", _DIGIT)
# DeepSeek V3: numbers by three, Chinese and Japanese, then words with marks and signs.
DEEPSEEK3 = (
    r"\p{N}{1,3}",
    "[一-龥぀-ゟ゠-ヿ]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|"""
    + _SPACES,
)
# BLOOM and its kin: everything between spaces and sentence signs; Viking adds single digits.
BLOOM = (" ?[^(\\s|.,!?…。，、।۔،)]+",)
VIKING = (*BLOOM, _DIGIT)


@dataclass(frozen=True)
class Split:
    """What a `tokenizer.ggml.pre` name stands for."""

    patterns: tuple[str, ...]
    whole_words: bool = False  # a word that is a token is taken at once, without merges ("ignore_merges")
    add_bos: bool = False  # where the file does not say


_FAMILIES = {
    "default": Split(DEFAULT),
    "gpt-2 phi-2 mpt olmo jais trillion granite-docling exaone4 gigachat a.x-4.0 mellum": Split(GPT2),
    "modern-bert roberta-bpe jina-v1-en jina-v2-code jina-v2-es jina-v2-de jina-es jina-de": Split(GPT2),
    "smollm starcoder refact command-r codeshell exaone minerva-7b mellum2": Split(DIGITS_GPT2),
    "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2": Split(LLAMA3, whole_words=True, add_bos=True),
    "dbrx smaug-bpe chatglm-bpe": Split(LLAMA3),
    "glm4 glm5": Split(LLAMA3, whole_words=True),
    "qwen2 stablelm2 deepseek-r1-qwen kormo hunyuan megrez solar-open grok-2": Split(QWEN2),
    "bailingmoe bailingmoe2 llada-moe": Split(QWEN2),
    "qwen35": Split(QWEN35),
    "tekken": Split(TEKKEN, whole_words=True, add_bos=True),
    "gpt-4o llama4 kanana2 talkie minimax-m2": Split(GPT4O),
    "ufakzeka": Split(UFAKZEKA),
    "seed-coder": Split(SEED_CODER),
    "minicpm5": Split(MINICPM5, whole_words=True),
    "falcon": Split(FALCON),
    "deepseek-coder": Split(DEEPSEEK_CODER),
    "deepseek-v3 hunyuan-dense joyai-llm hy_v4": Split(DEEPSEEK3),
    "bloom gpt3-finnish poro-chat": Split(BLOOM),
    "viking": Split(VIKING),
}
SPLITS = {name: split for names, split in _FAMILIES.items() for name in names.split()}
"""Every `tokenizer.ggml.pre` that is known."""


def split_named(pre: str) -> Split:
    """The split called `pre`. Raises UnsupportedModel for a name that is not in SPLITS.

    >>> split_named("smollm").patterns[0]
    '\\\\p{N}'
    """
    if pre not in SPLITS:
        raise UnsupportedModel(
            f"the file's pre-tokenizer (tokenizer.ggml.pre) is {pre!r}, whose way to split text is not known here; "
            f"known are {', '.join(sorted(SPLITS))}"
        )
    return SPLITS[pre]


def splitter(patterns: tuple[str, ...]) -> pre_tokenizers.PreTokenizer:
    """The engine's pre-tokenizer: cut by each pattern in turn, then spell the bytes of each piece as GPT-2 does."""
    cuts = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns]
    return pre_tokenizers.Sequence([*cuts, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
