"""Asking a vision-language model (section 3.2).

question        one question, its answer, and the protocol of who can be asked
servers         chat-completions servers: endpoints (health), chat (wire format)
local           a Qwen-VL of transformers in this process: chat_prompt (tokens and patches), decoding (held to a schema)
answers         from what a model wrote to a checked answer; pictures: under a cap of pixels
"""
