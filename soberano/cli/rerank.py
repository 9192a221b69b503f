"""`soberano rerank MODEL QUERY DOC…`: sort documents by how well they answer a query."""

import argparse
import json
import sys

from soberano.cli._numbers import positive
from soberano.cli._texts import add_texts, checked, texts_of

HELP = "sort documents by how well they answer a query: from arguments, standard input or a file"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a folder, a .gguf file, or the name of a pulled model")
    parser.add_argument("query", metavar="QUERY", help="what is looked for")
    add_texts(parser, "documents", "DOC")
    parser.add_argument("--head", metavar="FOLDER", help="a relevance head that was trained on this encoder")
    parser.add_argument("--top", type=positive, metavar="N", help="only the best N")
    parser.add_argument(
        "--instruction", metavar="TEXT", help="what makes a document fit, for models that generate text"
    )
    parser.add_argument("--exact", action="store_true", help="compute in float32 even where bfloat16 would be faster")
    parser.add_argument("--context", type=positive, metavar="N", help="tokens that are read of a query with a document")
    parser.add_argument("--backend", metavar="NAME", help="auto, cpu, cuda, xla, numpy or an installed one")
    parser.add_argument("--json", action="store_true", help="print one JSON object: model, results, tokens, truncated")


def run(args: argparse.Namespace) -> int:
    from soberano.cli._terminal import progress
    from soberano.core.printable import printable
    from soberano.models import rank
    from soberano.models.load import load
    from soberano.registry.store import resolve

    checked([args.query])
    with progress() as show, texts_of(args, args.documents) as texts:
        how = {
            "backend": args.backend,
            "context": args.context,
            "exact": args.exact,
            "head": args.head,
            "progress": show,
        }
        with load(resolve(args.model), **how) as model:
            documents = list(texts)
            pairs = model.pairs(args.query, documents, args.instruction)
            found = rank.best(rank.scores(model, pairs, show), args.top)
            name, context = model.name, model.context
    if args.json:
        results = [{"index": f.index, "relevance_score": f.score, "document": documents[f.index]} for f in found]
        read = sum(map(len, pairs.tokens))
        print(json.dumps({"model": name, "results": results, "tokens": read, "truncated": pairs.cut}))
    else:
        for each in found:
            text = " ".join(documents[each.index].split())
            print(f"{each.score:.6f}\t{each.index}\t{printable(text, lines=False)}")
    if pairs.cut:
        print(
            f"cut at {context} tokens: {pairs.cut:,} of {len(documents):,} documents; the model reads no more",
            file=sys.stderr,
        )
    return 0
