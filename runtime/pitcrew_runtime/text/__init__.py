"""Between text and token ids: tokenizer, streaming detokenizer, stop strings, chat template."""
