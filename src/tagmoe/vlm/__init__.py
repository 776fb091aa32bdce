"""Asking a vision-language model (section 3.2).

question        one question, its answer, and the protocol of who can be asked
servers         chat-completions servers: endpoints (health), chat (wire format), dialect (fields that one refuses)
control         a harmless question, which tells a refusal of one question from a refusal of all
local           a Qwen-VL of transformers in this process: chat_prompt (tokens and patches), decoding (held to a schema)
answers         from what a model wrote to a checked answer: thoughts are left out, plain slips are mended
pictures        under a cap of pixels
"""
