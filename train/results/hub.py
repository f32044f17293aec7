"""Send an adapter or a full model to the Hugging Face hub, freed of local paths and with a model card."""

import errno
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, get_token
from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled
from huggingface_hub.utils import validate_repo_id
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from data.checkpoint_files import ADAPTER_CONFIG, read_json
from data.errors import UserError, one_line, with_way_out
from data.web import httpx
from train.card.cleaned import SECRET_TEXT, without_local_paths, without_secrets
from train.card.facts import RECIPE, read_facts
from train.card.mixture import MIXTURE
from train.card.model_card import CARD, make_card
from train.model.adapter_settings import check_adapter_settings
from train.model.fingerprint import FINGERPRINT, read_fingerprint
from train.model.weight_files import ADAPTER_WEIGHTS, digest_of_files, shards_of
from train.preprocessing.contract import PREPROCESSING
from train.recipe.load import read_kept_recipe
from train.recipe.yaml_text import to_yaml
from train.results.artifact import describe

# Only files that these name are sent, and only from the top of the folder: no checkpoints with their optimizer
# states, no logs, no training_args.bin (it holds the hub token), nothing else that lies in an output folder.
WEIGHTS = (ADAPTER_WEIGHTS, SAFE_WEIGHTS_NAME, "model-*-of-*.safetensors")
CONFIGS = (
    *(ADAPTER_CONFIG, "config.json", "generation_config.json"),
    *("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json"),
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.json"),
    *(PREPROCESSING, MIXTURE),
)
MAX_NAMED = 3  # missing files that a message names
SENT = (
    *(*WEIGHTS, SAFE_WEIGHTS_INDEX_NAME, *CONFIGS, FINGERPRINT),
    *("tokenizer.json", "tokenizer.model", "chat_template.jinja"),
)
GIT_NAME = re.compile(r"[A-Za-z0-9_][\w.-]*(?<!\.lock)(?<!\.)")
SHOWN = 8  # characters of a digest in a tag
LARGE, GB = 10**9, 10**9  # bytes; what takes so long to send that each file is told
# The disk of this machine, and not the hub, is to blame for these.
DISK_PROBLEMS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


def push_to_hub(
    folder: Path,
    repo_id: str,
    *,
    private: bool = True,
    dry_run: bool = False,
    base: str | None = None,
    revision: str | None = None,
    tag: str | None = None,
    report: Callable[[str], None] = print,
) -> None:
    """Create the repository if it is not there, send the weights file by file, and then everything in one commit.

    `base` is the hub id that the card and the adapter name as base model, where training took it from a local
    folder. `revision` is a branch, made where it is not there; `tag` names the commit, None gives it the run's name.
    `dry_run` reports each file's size and the card instead, without network or token.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as problem:
        raise UserError(f"{repo_id!r} is no name for a hub repository, such as me/my-model: {problem}") from problem
    for option, name in (("--revision", revision), ("--tag", tag)):
        if name is not None and not GIT_NAME.fullmatch(name):
            raise UserError(f"{option}: {name!r} is no name for it; take letters, digits, '.', '_' and '-'")
    files = collect(folder, repo_id, base)
    wanted = Wanted(repo_id, private, revision, tag or run_name(folder, files), is_given=tag is not None)
    if dry_run:
        _tell(files, wanted, report)
        return
    if get_token() is None:
        raise UserError("no token for the hub: run `hf auth login` with a token that may write, or set HF_TOKEN")
    try:
        report(f"sent: {_send(files, wanted, report)}")
    except OfflineModeIsEnabled as problem:
        raise UserError("HF_HUB_OFFLINE is set: unset it to send, or use --dry-run") from problem
    except (httpx.HTTPError, OSError, RuntimeError, ValueError) as problem:
        if isinstance(problem, UserError):
            raise
        if isinstance(problem, OSError) and problem.errno in DISK_PROBLEMS:
            raise UserError(f"cannot send {folder}: {with_way_out(problem)}") from problem
        if isinstance(cause := problem.__cause__ or problem, httpx.TransportError):  # the client wraps those of weights
            raise UserError(
                f"the connection to the hub broke: {one_line(cause)}; give the same command again: files that have "
                "arrived are not sent twice"
            ) from problem
        raise UserError(f"the hub refuses {repo_id}: {one_line(problem)}") from problem


@dataclass(frozen=True)
class Wanted:
    """The repository and branch that files go to. tag: name of the commit; is_given: by the user."""

    repo_id: str
    private: bool
    revision: str | None
    tag: str
    is_given: bool

    def __str__(self) -> str:
        branch = f", branch {self.revision}" if self.revision else ""
        return f"{self.repo_id} ({'private' if self.private else 'public'}{branch}), tag {self.tag}"


def run_name(folder: Path, files: Mapping[str, Path | bytes]) -> str:
    """Return a name for what a run has come to: its last step and its weights' digest."""
    weights = [
        content for name, content in files.items() if isinstance(content, Path) and name.endswith(".safetensors")
    ]
    digest = digest_of_files(file for file in weights if file.name != FINGERPRINT)
    step = read_facts(folder).step
    return f"{'weights' if step is None else f'step-{step}'}-{digest[:SHOWN]}"


def _tell(files: Mapping[str, Path | bytes], wanted: Wanted, report: Callable[[str], None]) -> None:
    """Report where it would go, the files with their sizes, and the card."""
    report(f"{wanted}:")
    for name, content in sorted(files.items()):
        report(f"{_size(content):>15,} bytes  {name}")
    report(f"{sum(map(_size, files.values())):>15,} bytes  in all")
    card = files[CARD]
    assert isinstance(card, bytes)
    report(f"\n{card.decode()}")


def _send(files: Mapping[str, Path | bytes], wanted: Wanted, report: Callable[[str], None]) -> str:
    """Send the weights, then all files in one commit, so that the repository never holds half of a model; return its
    address.

    Weights that have arrived stay on the hub until a commit names them: who sends them again sends nothing.
    """
    api = HfApi()
    repo_id = api.create_repo(wanted.repo_id, private=wanted.private, exist_ok=True).repo_id
    # An existing repository keeps its visibility: what is meant to be private must not become public that way.
    if api.model_info(repo_id).private != wanted.private:
        there, flag = ("public", "--public") if wanted.private else ("private", "--private")
        raise UserError(f"{repo_id} exists already and is {there}; pass {flag}, or give another name")
    if wanted.is_given and wanted.tag in {each.name for each in api.list_repo_refs(repo_id).tags}:
        raise UserError(f"--tag: {repo_id} has a tag {wanted.tag} already; give another one")
    if wanted.revision:
        api.create_branch(repo_id, branch=wanted.revision, exist_ok=True)
    operations = [CommitOperationAdd(name, content) for name, content in files.items()]
    weights = [each for each in operations if isinstance(files[each.path_in_repo], Path)]
    for number, each in enumerate(weights, start=1):
        size = _size(files[each.path_in_repo])
        if size >= LARGE:
            report(f"sending {each.path_in_repo}, {size / GB:.1f} GB ({number} of {len(weights)})")
        api.preupload_lfs_files(repo_id, [each], revision=wanted.revision)
    message = "Upload model with reeltune"
    done = api.create_commit(repo_id, operations, commit_message=message, revision=wanted.revision)
    api.create_tag(repo_id, tag=wanted.tag, revision=done.oid, exist_ok=not wanted.is_given)
    return f"{done.commit_url}, tag {wanted.tag}"


def collect(folder: Path, repo_id: str, base: str | None = None) -> dict[str, Path | bytes]:
    """Return what is sent, by name in the repository: files as they are, cleaned JSON and recipe, and the card."""
    found = {file.name: file for pattern in (*SENT, RECIPE) for file in sorted(folder.glob(pattern)) if file.is_file()}
    for file in found.values():
        if file.is_symlink():
            raise UserError(f"{file} is a link, and links are not followed; put the file itself there, or remove it")
    recipe_file = found.pop(RECIPE, None)
    _check_complete(folder, found)
    adapter = read_json(found[ADAPTER_CONFIG]) if ADAPTER_CONFIG in found else None
    if adapter is not None:
        check_adapter_settings(f"{folder}: {ADAPTER_CONFIG}", adapter)
    if adapter and base:
        adapter["base_model_name_or_path"], adapter["revision"] = base, None
    recipe = without_secrets(read_kept_recipe(recipe_file)) if recipe_file else {}

    files: dict[str, Path | bytes] = dict(found)
    for name in found.keys() & set(CONFIGS):
        content = without_local_paths(adapter if name == ADAPTER_CONFIG else read_json(found[name]))
        if name in (PREPROCESSING, MIXTURE):
            content = without_secrets(content)  # a system prompt is what a user wrote
        files[name] = (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()
    if recipe:
        files[RECIPE] = to_yaml(recipe).encode()
    files[CARD] = make_card(folder, repo_id, base).encode()
    _refuse_secrets(folder, files)
    return files


def _refuse_secrets(folder: Path, files: Mapping[str, Path | bytes]) -> None:
    """Raise UserError where a file of words, cleaned or not, holds what looks like a key."""
    for name, content in files.items():
        if name.endswith((".safetensors", "tokenizer.json", "tokenizer.model")):
            continue
        text = (content if isinstance(content, bytes) else content.read_bytes()).decode("utf-8", "replace")
        if match := SECRET_TEXT.search(text):
            raise UserError(f"{folder / name} holds what looks like a key, {match[0][:6]}...; remove it, then send it")


def _check_complete(folder: Path, found: dict[str, Path]) -> None:
    if not folder.is_dir() or not {"config.json", ADAPTER_CONFIG} & found.keys():
        raise UserError(f"{folder} holds neither an adapter nor a model: {describe(str(folder))}")
    if ADAPTER_CONFIG in found:
        needed = {ADAPTER_WEIGHTS}
    elif SAFE_WEIGHTS_INDEX_NAME in found:
        needed = set(shards_of(found[SAFE_WEIGHTS_INDEX_NAME]))
    else:
        needed = {SAFE_WEIGHTS_NAME}
    needed.add("tokenizer_config.json")  # without its processor a model cannot be asked anything
    if missing := sorted(needed - found.keys()):
        raise UserError(f"{folder} lacks {', '.join(missing[:MAX_NAMED])}: was its saving interrupted?")
    if ADAPTER_CONFIG in found and FINGERPRINT in found:
        if read_fingerprint(found[FINGERPRINT]).adapter != digest_of_files([found[ADAPTER_WEIGHTS]]):
            raise UserError(f"{folder}: {ADAPTER_WEIGHTS} is not the file that training saved; restore it")


def _size(content: Path | bytes) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size
