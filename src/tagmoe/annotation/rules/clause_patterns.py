"""Patterns for a whole instruction: its clauses, questions and wishes, what must stay, and what is beyond the tags."""

from __future__ import annotations

from types import SimpleNamespace


def clause_sources(w: SimpleNamespace) -> dict[str, str]:
    """Regular expressions by the name of what they find; `w` holds the fragments."""
    return {
        "preamble": (
            r"^(?:please|kindly|how about|what about|consider|try|why not|perhaps|maybe|(?:is it|would it be) "
            r"possible to|i need you to|now|ok(?:ay)?|also|and|then|finally|next|(?:can|could|would|will) (?:you|we|"
            r"i)(?: "
            r"please)?|let's|let us|i (?:want|would like|wish)(?: you)? to|i'd like(?: you)? to|what if|as if|if|we "
            r"(?:need|want) to|you should)\b[ ,]*"
        ),
        "between_clauses": (
            r"[.;!?]+\s+|,? (?:and )?then |"
            rf",? and (?:also )?(?={w.verbs}\b(?! (?:back|places)\b))|, (?:also )?(?={w.verbs}\b)"
        ),
        "quoted": (r"(?<!\w)['\"][^'\"]{1,80}['\"](?!\w)|[\u201c\u2018][^\u201d\u2019]{1,80}[\u201d\u2019]"),
        "locative": r"^(?:at|on|in|to|next to|behind|near|under|above) (?:the|his|her|its) [^,]{2,40}, ",
        "control_map": (
            r"\b(?:this|given|from the|the given) map\b|"
            r"\b(?:depth|canny|edge|edges|hed|pose|segmentation|normal|line ?art) (?:map|image|condition)\b|"
            r"\b(?:scribble|skeleton) (?:map|image|condition)\b"
        ),
        "style_word": rf"\bstyles?\b|\bstyli[sz]ed?\b|\b{w.styles}\b",
        "kept": (
            rf"(?:^|,? (?:while|but|and|yet|then|,)* ?|[,;.] )(?:keep|leave|preserve|maintain|retain)(?:ing)? "
            rf"(?!(?:only|just)\b)[^.;]*?(?=,? (?:and |then |but )?(?:{w.verbs}) (?:the|an?|it|him|her|them|his|its|"
            rf"their|all|some|up|away|off)\b|[.;]|$)|"
            r"[,.;]? ?\b(?:while|but|with) (?:[^.;]*?)\b(?:remain|stay|kept|unchanged|intact|untouched)(?:s|"
            r"ing)?\b[^.;]*|"
            r"[,.;] ?[^.;]*\b(?:remain|stay|(?:is|are|be) kept)s?\b[^.;]*|"
            r",? (?:but |and )?without (?:changing|altering|touching|affecting|modifying|moving)\b[^.;]*"
        ),
        "aside": (
            r", (?:covering|continuing|so (?:that )?it (?:looks|matches|fits)|to match|matching|complete with|"
            r"similar to|"
            r"surrounded by|as if)\b[^.;]*$"
        ),
        "be_there": (
            r"^(?:(?:could|can|should|would|might) there be|(?:what if|if|how about if|wish) there (?:was|were|is)|"
            r"there (?:could|should|might|must) be|i (?:want|wish|would like|'d like) there to be) "
            r"(?!no\b)(?P<what>.+)$"
        ),
        "none_there": (
            r"^(?:there (?:should|must|could|can) (?:be no|not be(?: an?y?)?)|(?:could|can|should|what if) there "
            r"(?:be|was|were) no|"
            r"no(?: more)?|there should(?:n't| not) be(?: an?y?)?|i (?:do not|don't) want(?: any| the| to see(?: any|"
            r" the)?)?) "
            r"(?P<what>(?!longer)[^,]+)$"
        ),
        "nice_to_have": (
            r"^(?:it (?:would|might|could) be (?:nice|great|good|cool|lovely|better|fun|perfect) (?:to (?:have|see)|"
            r"with|if "
            r"(?:there (?:was|were)|we had))|(?:i'?d? |we )(?:would )?(?:like|love|want|need) (?:to (?:have|see) "
            r")?(?!to )) ?"
            r"(?P<what>(?:an?|some|another|more|two|three) .+)$"
        ),
        "be_question": (
            r"^(?:could|can|should|would|might) (?P<what>(?:the|it|he|she|they|his|her|this|that|their|all)\b.*?) "
            r"(?:be|become)(?: (?:turned|changed|made|transformed) into)? (?P<new>.+)$"
        ),
        "if_had": (
            r"^(?:what if|if|imagine if|how about if|imagine) (?P<what>he|she|it|they|the [\w' -]+?|his [\w' -]+?|her "
            r"[\w' -]+?) had (?P<new>.+)$"
        ),
        "if_was": (
            r"^(?:what if|if|as if|imagine if|imagine|how about if) (?P<what>it|he|she|they|(?:the|this|his|her|all) "
            r"[\w' -]+?) (?:was|were|is|are|became|turned into)(?: now)? (?P<new>.+)$"
        ),
        "look_question": (
            r"^(?:what|how) (?:would|does|might|could) (?P<what>(?:the|it|this|he|she|his|her)\b.*?) look(?: like)? "
            r"(?P<new>(?:from|seen|viewed)\b.+)$"
        ),
        "gerund": (r"^(?P<stem>add|turn|paint|insert|draw|convert|transform)ing (?P<rest>.+)$"),
        "gerund_in_e": r"^(?P<stem>remov|chang|mak|replac|mov|giv|plac|delet|eras)ing (?P<rest>.+)$",
        "gerund_doubled": r"^(?P<stem>put|swap|get|let)(?:t|p)ing (?P<rest>.+)$",
        "goes_on_about": r"^\w+ (?:(?:it|him|her|them|his|its|their)\b|(?:on|off) (?:him|her|it)\b)",
        "beyond": (
            rf"\b(?:{w.refused})\b|"
            r"\b(?:first|second|third|other|reference|input|source|previous|provided|uploaded|left-hand|next) "
            r"(?:image|photo|"
            r"picture|photograph|pic)\b|\b(?:image|photo|picture|figure) (?:\d|one|two|a|b)(?=$|[,.:]| (?:on|in|to|"
            r"from|and|onto|with)\b)|"
            rf"\b(?:flip|mirror|rotate|turn|straighten|tilt|resize|rescale|stretch|scale) {w.whole}"
            r"(?: (?:horizontally|vertically|upside|by|\d|clockwise|counter|sideways|to)\b|$)|"
            rf"\b(?:rotate|turn) (?!.*camera)(?!{w.whole} (?:into|to))"
            r"[^,]*\b(?:degrees|clockwise|upside down|\d+\u00b0)|"
            rf"\bkeep (?:only|just)\b|\bonly keep\b|\bleave only\b|"
            rf"^(?:generate|create|imagine|produce|synthesi[sz]e|make|draw|render)(?: me)? (?:an? )(?:new "
            rf")?(?:[\w-]+ )?"
            rf"{w.images} (?:of|with|that|in which|showing)\b|"
            rf"\b(?:do|try) (?:the same|it|that|this)\b|\b(?:more|less)$|"
            r"^(?:what|how) about (?!\w+ing\b)|\b(?:sharpen|enhance|improve|clean up|touch up|retouch|clear up) "
            r"(?:the|this|it)\b|"
            rf"\b(?:the|this|a) (?:{w.images}) (?:sharper|clearer|smaller|larger|bigger|wider|taller)\b|"
            rf"\b(?:remove|reduce|fix|get rid of|clean) (?:the |all |any |all the )?(?:[\w-]+ )?(?:noise|blur|grain|"
            rf"scratch(?:es)?|"
            r"artifacts?|artefacts?|dust|pixelation|red[- ]eyes?|compression|folds?|creases?|fading)\b"
        ),
        "vague": (
            rf"^(?:make|turn|have|let|give|do|change) (?:[\w' -]+ )?(?:{w.vague})$|\b(?:look|be|feel) (?:[\w-]+ "
            rf")?(?:{w.vague})$|"
            rf"^(?:change|edit|modify|adjust|alter|do) (?:it|this|that|{w.whole}|the (?!light|lighting|weather|"
            rf"season|style|background|pose|expression)[\w-]+)$|\b(?:to|with) (?:a )?something\b"
        ),
        "statement": (
            r"^(?:this|the|an?|his|her|these|two|three|some)\b(?!.*\b(?:should|could|must|needs?)\b)(?:.* (?:is|are|"
            r"was|were|"
            r"sits|stands|has)\b)"
        ),
        "hidden_command": (
            r"\b(?:except|apart from|other than|but not)\b|^clear .* of (?!the)|, (?:adding|removing|replacing|"
            r"changing|turning|putting|giving) (?!.*\b(?:wrinkles|gr[ae]y))"
        ),
        "from_map": (
            rf"\b(?:turn|convert|transform|render|make|change) (?:the|this|an?) (?:[\w-]+ )?{w.maps}\b.* (?:in)?to\b|"
            r"\b(?:from|using|based on|following|follow|given|according to|guided by|with|by|conditioned on|"
            r"match(?:ing|es)?|in) "
            rf"(?:the|this|an?) (?:[\w-]+ )?{w.maps}\b"
        ),
        "let_have": (
            r"^(?:let|make|have) (?P<what>(?:the|it|him|her|them|his|its|their|this)\b.*?) have (?P<new>(?!no\b).+)$"
        ),
        "is_now": (r"^(?P<what>(?:the|it|he|she|his|her|this)\b.*?) (?:is|are) (?:now (?P<new>.+)|(?P<state>.+) now)$"),
        "should_be": (
            r"^(?P<what>(?:it|he|she|they|the|his|her|this|these|all)\b(?: .*?)??) (?:should|could|must|needs? to|"
            r"has to) (?:now )?(?:be|become|look like|look) (?P<new>(?!wearing\b|holding\b).+)$"
        ),
        "should_have": (
            r"^(?P<what>(?:it|he|she|they|the|his|her|this)\b(?: .*?)??) (?:should|could|must|needs? to) have "
            r"(?P<new>(?!no\b).+)$"
        ),
        "perceives": (rf"\b{w.maps}\b|\b(?:edges|contours|outline) of (?:the|this)\b"),
        "want": (
            r"^(?:i|we)(?: want| need| wish|(?: would|'d) (?:like|love)) (?P<what>(?:the|him|her|it|them|his|"
            r"this)\b.*?) to (?P<new>.+)$"
        ),
        "have_question": (
            r"^(?:could|can|should|would|might) (?P<what>(?:the|it|he|she|they|his|her|this)\b(?: .*?)?) have "
            r"(?P<new>(?!no\b).+)$"
        ),
    }
