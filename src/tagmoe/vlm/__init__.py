"""Asking a vision-language model: what an edit's tags are (paper 3.2), and better words for an instruction (inference).

question        one question, its answer, and the protocol of who can be asked
local           a Qwen-VL of transformers in this process, which can be asked
chat_prompt     a question as token ids and picture patches
decoding        tokens that fit a JSON schema, greedily or drawn by a seed
annotation      an annotator's answer for one record, and its column in a store
rewrite         better words for an instruction, or the raw one (rewrite_prompt, rewrite_checks, rewrite_cache)
"""
