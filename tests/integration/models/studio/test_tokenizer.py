from models.studio.tokenizer import MAX_LENGTH, build, words


def test_every_listed_word_is_one_token() -> None:
    tokenizer = build()
    assert [w for w in words() if len(tokenizer(w, add_special_tokens=False).input_ids) != 1] == []


def test_the_vocabulary_is_the_same_on_every_run() -> None:
    assert build().get_vocab() == build().get_vocab()


def test_any_text_is_spelled_out_without_an_unknown_token() -> None:
    tokenizer = build()
    ids = tokenizer("zebras & Ünïcode 🦓", add_special_tokens=False).input_ids
    assert tokenizer.eos_token_id not in ids
    assert tokenizer.model_max_length == MAX_LENGTH
