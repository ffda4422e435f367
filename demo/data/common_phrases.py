"""Phrases every desk hears, whatever it is about."""

FIRST_NAMES = (
    "Anna", "Ben", "Carla", "David", "Elena", "Farid", "Grace", "Hugo", "Ines", "James", "Karin",
    "Liam", "Maria", "Nora", "Omar", "Paula", "Ravi", "Sofia", "Tom", "Uma", "Victor", "Wendy",
    "Yusuf", "Zoe",
)  # fmt: skip

OPENINGS = (
    "[Hi|Hello|Hey],",
    "[Hi|Hello|Hey] there,",
    "[Hi|Hello|Dear] [team|all|support],",
    "Good [morning|afternoon|evening],",
    "Dear [Sir or Madam|customer service],",
    "[Hi|Hello], [this is {name}|{name} here].",
    "[Hi|Hello], I hope you [can help me|are well].",
    "[Hi|Hello], I have a [question|problem].",
    "Can [you|someone] [please |]help me?",
    "I [hope|think] you can help me.",
)
HARDER_OPENINGS = (
    "Greetings.",
    "To whom it may concern,",
    "Sorry to bother you again.",
    "My name is {name} and I am a bit lost.",
    "Howdy,",
)

CLOSINGS = (
    "[Thanks|Thank you|Many thanks|Cheers].",
    "[Thanks|Thank you] [in advance|very much|for your help|a lot].",
    "[Best|Kind|Warm] regards, {name}",
    "[Thanks|Best|Regards|Cheers], {name}",
    "[Looking forward to your reply|Please let me know|Please get back to me].",
    "{name}",
)
HARDER_CLOSINGS = (
    "Much obliged, {name}.",
    "Yours sincerely, {name}",
    "Hope to hear back.",
    "All the best to you, {name}",
    "Appreciate it!",
)

URGENCY_CUES = {
    "high": (
        "[This|It] is [very |really |]urgent[.|!]",
        "I need [this|an answer|help] [today|by tomorrow|right away|immediately].",
        "Please [answer|reply|act|hurry] [as soon as possible|asap|immediately][.|!]",
        "[It|This] [cannot|can not|can't] wait[.|!]",
        "[Urgent|URGENT]!",
        "I am in a [big |great |]hurry.",
    ),
    "medium": (
        "[I need|I would like|Please send] an answer [this week|in the next few days].",
        "Please [answer|reply|sort it out] [by Friday|within a few days|this week].",
        "[A reply|An answer] [this week|by the weekend|within a few days] would be [fine|good].",
        "It would be good to [know|settle this] [by the weekend|by Friday|this week].",
    ),
    "low": (
        "[There is|There's] no [rush|hurry].",
        "No [rush|hurry] [at all|here|from my side].",
        "[It|This] is not [urgent|pressing] at all.",
        "[Take your time|Whenever you have time|Whenever it suits you].",
        "[It|This] can wait [a while|a bit|until next month].",
    ),
}
HARDER_URGENCY_CUES = {
    "high": (
        "I must have an answer within the hour!",
        "Drop everything, this is an emergency.",
        "Every minute counts, so please be quick.",
        "Do it now, I am running out of time.",
        "Top priority, no delay please!",
    ),
    "medium": (
        "Some time before Sunday would suit me.",
        "Could we close this before the week is over?",
        "Two or three days are fine for your answer.",
        "I expect to hear something by Thursday.",
    ),
    "low": (
        "I am not in a hurry with this one.",
        "Feel free to answer next month, I can wait.",
        "Nothing pressing, reply when things are calm.",
        "Just at your leisure, please.",
    ),
}
