"""Kinds of notes people write, with what can be read from them: none is a support desk."""

from collections.abc import Mapping
from dataclasses import dataclass

Labels = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Topic:
    """Details are copied from the text (by field: kind of value, sentences naming {it}); labels
    are understood from it (by field: label, sentences that mean it)."""

    name: str
    details: Mapping[str, tuple[str, tuple[str, ...]]]
    labels: Mapping[str, Labels]


WRITER = (
    "name",
    ("My name is {it}.", "[This is|It is] {it}.", "{it} [here|speaking].", "I am {it}."),
)
MOOD: Labels = {
    "happy": (
        "I am [very |so |]happy [with you|about it].",
        "[Great|Wonderful|Lovely] work!",
        "[I love it|It was wonderful|Everything is great].",
    ),
    "angry": (
        "I am [very |really |]angry[ with you| about this|].",
        "[This is|It is] a [scandal|disgrace][.|!]",
        "[I hate this|It makes me mad|I have had enough][.|!]",
    ),
    "worried": (
        "I am [a bit |really |]worried[ about it|].",
        "I [cannot|can't] sleep [because of it|at night].",
        "[I am afraid of it|It scares me|I fear the worst].",
    ),
}
CONTACT: Labels = {
    "phone": (
        "Please [call|ring|phone] me[ back|].",
        "[Give me a call|I want a call back|Reach me by phone].",
    ),
    "email": (
        "Please [write|send] me an email.",
        "[Answer by email|An email is enough|I read my email daily].",
    ),
    "letter": (
        "Please [write|send] me a letter.",
        "[Answer by post|I want it on paper|Put it in my letter box].",
    ),
}

TOPICS = (
    Topic(
        "Restaurant",
        {
            "guest": WRITER,
            "people": ("small", ("We are {it} people.", "[A table|Seats] for {it}[, please|].")),
            "day": ("day", ("[We come|It is] on {it}.", "{it} would [suit us|be nice].")),
            "booking_code": ("code", ("[The|My|Our] booking [code |]is {it}.", "Booking: {it}.")),
        },
        {
            "wish": {
                "new_table": (
                    "[I want|We would like] to [book|reserve] a table.",
                    "Is a table free?",
                ),
                "menu": ("[What|Which dishes] is on the menu?", "Please show [me|us] the menu."),
                "allergy": ("[I|My son] cannot eat nuts.", "Is there milk in the [soup|cake]?"),
                "cake": ("[Can|Could] you bake a cake[ for us|]?", "We need a birthday cake."),
            },
            "mood": MOOD,
        },
    ),
    Topic(
        "Clinic",
        {
            "patient": WRITER,
            "town": ("town", ("I live in {it}.", "[My|Our] home is in {it}.", "I come from {it}.")),
            "file_number": (
                "code",
                ("[My|The] file [number |]is {it}.", "File [no. |number |]{it}."),
            ),
            "time": ("time", ("[I can come|It is] at {it}.", "{it} is a good time.")),
        },
        {
            "reason": {
                "fever": (
                    "I have [a fever|a high temperature].",
                    "[My son|She] is hot and sweats.",
                ),
                "back_pain": ("My back [hurts|aches].", "I have a pain in [the|my] back."),
                "vaccine": ("I need a [vaccine|flu shot].", "[Can|Could] you vaccinate [me|us]?"),
                "eyes": ("I [cannot|can't] see well.", "My eyes are [red|dry|tired]."),
                "check_up": (
                    "I want a [check-up|routine check].",
                    "[Please|Can you] check my heart.",
                ),
            },
            "contact": CONTACT,
        },
    ),
    Topic(
        "Hotel",
        {
            "guest": WRITER,
            "room_number": ("code", ("[My|Our] room is {it}.", "[We are|I am] in room {it}.")),
            "arrival": ("date", ("[I|We] arrive on {it}.", "Our stay [starts|begins] on {it}.")),
            "home_town": ("town", ("[I|We] [come|travel] from {it}.", "Home is {it}.")),
        },
        {
            "topic": {
                "breakfast": ("When is breakfast[ served|]?", "Is breakfast [included|free]?"),
                "noise": (
                    "[The neighbours are|It is] too loud.",
                    "We [cannot|can't] sleep, such noise!",
                ),
                "towels": ("[We|I] need [new|clean|more] towels.", "There are no towels."),
                "late_checkout": (
                    "[Can|May] we leave [late|after noon]?",
                    "We want a late checkout.",
                ),
                "parking": ("Where can [I|we] park[ the car|]?", "Is there a garage?"),
            },
            "mood": MOOD,
        },
    ),
    Topic(
        "Library",
        {
            "reader": WRITER,
            "card_number": (
                "code",
                ("[My|The] card [number |]is {it}.", "Card [no. |number |]{it}."),
            ),
            "branch": ("town", ("I use the library in {it}.", "The branch is [in |]{it}.")),
            "due_date": ("date", ("[It is|They are] due on {it}.", "Due date: {it}.")),
        },
        {
            "request": {
                "renew": ("[Please|Can you] [renew|extend] my books.", "I want to keep it longer."),
                "lost_card": ("I lost my [library |]card.", "My card [is gone|was stolen]."),
                "late_fee": ("Why must I pay a [late fee|fine]?", "The [fee|fine] is too high."),
                "new_book": (
                    "[Can|Could] you buy a new book?",
                    "I wish you had [more|other] novels.",
                ),
                "hours": ("When do you [open|close]?", "Are you open on Sundays?"),
            },
            "contact": CONTACT,
        },
    ),
    Topic(
        "Bank",
        {
            "client": WRITER,
            "account": ("code", ("[My|The] account [number |]is {it}.", "Account {it}.")),
            "branch": ("town", ("My branch is in {it}.", "I opened it in {it}.", "Branch: {it}.")),
            "amount": ("small", ("It is about {it} euros.", "The sum is {it} [euros|dollars].")),
        },
        {
            "matter": {
                "stolen_card": ("My card was stolen.", "[A thief|Someone] took my card."),
                "forgot_pin": ("I forgot my [pin|code].", "I do not remember [the|my] pin."),
                "loan": ("I [want|need] a loan.", "[Can|Could] you lend me money?"),
                "unknown_payment": (
                    "I did not make [this|that] payment.",
                    "I don't know this charge.",
                ),
                "close_account": ("[Please |]close my account.", "I want to leave your bank."),
            },
            "mood": MOOD,
        },
    ),
    Topic(
        "Flight",
        {
            "passenger": WRITER,
            "flight": ("code", ("[My|The] flight is {it}.", "[I am|We are] on flight {it}.")),
            "from": (
                "town",
                ("I fly from {it}.", "We [start|leave] in {it}.", "[The start|Start] is {it}."),
            ),
            "seat": ("code", ("[My|The] seat is {it}.", "I sit in {it}.")),
        },
        {
            "question": {
                "luggage": (
                    "[My|Our] suitcase [is missing|did not arrive].",
                    "How many bags are allowed?",
                ),
                "delay": (
                    "[Is|Why is] the flight [late|delayed]?",
                    "We [still wait|are waiting] at the gate.",
                ),
                "meal": ("I want a [vegan|fish] meal.", "What is there to eat on board?"),
                "upgrade": ("[Can|May] I sit in first class?", "I want a better seat."),
                "visa": ("Do I need a visa?", "Which papers must I carry?"),
            },
            "contact": CONTACT,
        },
    ),
    Topic(
        "Gym",
        {
            "member": WRITER,
            "member_code": ("code", ("[My|The] member code is {it}.", "Member {it}.")),
            "studio": ("town", ("I train in {it}.", "My studio is [in |]{it}.")),
            "day": ("day", ("I come on {it}.", "{it} is my day.")),
        },
        {
            "kind": {
                "join": ("I want to [join|become a member].", "How do I sign up?"),
                "pause": ("[Please |]pause my membership.", "I am hurt and [need|want] a break."),
                "quit": ("I [want to|will] quit.", "[Please |]end my membership."),
                "course": (
                    "Is there a [yoga|dance] course?",
                    "When does the [yoga|dance] class start?",
                ),
            },
            "mood": MOOD,
        },
    ),
    Topic(
        "Internet",
        {
            "user": WRITER,
            "line": ("code", ("[My|The] line is {it}.", "Line number {it}.", "It is line {it}.")),
            "place": ("town", ("[My|Our] flat is in {it}.", "We live in {it}.", "I am in {it}.")),
            "since": ("day", ("It began on {it}.", "Since {it} it is like this.")),
        },
        {
            "fault": {
                "slow": ("[The internet|It] is [very |too |]slow.", "Films stop all the time."),
                "outage": (
                    "[The internet|The line] is [down|dead].",
                    "Nothing works, no connection.",
                ),
                "router": ("The router [blinks|is broken].", "I need a new router."),
                "password": ("I forgot my password.", "My password is not accepted."),
                "bill": ("The bill is too high.", "You charged me [too much|wrongly]."),
            },
            "contact": CONTACT,
        },
    ),
    Topic(
        "Pets",
        {
            "owner": WRITER,
            "pet": ("word", ("[He|She] is called {it}.", "[My|The] pet's name is {it}.")),
            "last_seen": ("town", ("We last saw [him|her] in {it}.", "It happened in {it}.")),
            "chip": ("code", ("The chip [number |]is {it}.", "Chip: {it}.")),
        },
        {
            "animal": {
                "dog": ("[Our|My] dog [ran away|is gone|is sick].", "It barks [all night|a lot]."),
                "cat": ("[Our|My] cat [ran away|is gone|is sick].", "It meows and hunts mice."),
                "bird": ("[Our|My] parrot [flew away|is gone].", "It sings and has wings."),
                "horse": ("[Our|My] horse [ran away|is sick].", "You can ride it."),
            },
            "mood": MOOD,
        },
    ),
    Topic(
        "School",
        {
            "pupil": (
                "name",
                ("[My|Our] child is {it}.", "It is about {it}.", "{it} is in your class."),
            ),
            "room": ("code", ("[The|Their] class is in room {it}.", "Room {it}.")),
            "day": ("day", ("It was on {it}.", "On {it} it begins.")),
            "town": ("town", ("The school is in {it}.", "We moved here from {it}.")),
        },
        {
            "note": {
                "sick": ("[She|He] is [ill|sick] and stays home.", "[She|He] has a cold."),
                "bus": ("The school bus [was late|did not come].", "When does the bus leave?"),
                "homework": ("What is the homework?", "The homework is too hard."),
                "trip": ("How much is the class trip?", "[She|He] cannot join the trip."),
                "bully": ("Someone hits [her|him].", "The others are mean to [her|him]."),
            },
            "contact": CONTACT,
        },
    ),
    Topic(
        "Garage",
        {
            "driver": WRITER,
            "plate": ("code", ("The plate is {it}.", "[My|The] car has the plate {it}.")),
            "colour": ("colour", ("[My|The] car is {it}.", "It is a {it} car.")),
            "town": (
                "town",
                ("[The car|It] is in {it}.", "I drove from {it}.", "I stand in {it}."),
            ),
        },
        {
            "job": {
                "tyres": ("I need [new |winter |]tyres.", "A tyre is flat."),
                "brakes": ("The brakes [squeak|do not work].", "It does not stop well."),
                "oil": ("[Please |]change the oil.", "It [loses|drips] oil."),
                "engine": (
                    "The engine [smokes|will not start].",
                    "[It|The motor] makes a bad sound.",
                ),
                "wash": ("[Please |]wash the car.", "It is full of mud."),
            },
            "mood": MOOD,
        },
    ),
    Topic(
        "Tickets",
        {
            "fan": WRITER,
            "hall": ("town", ("The concert is in {it}.", "I see it in {it}.", "Hall: {it}.")),
            "seats": ("small", ("I want {it} seats.", "We are {it} fans.")),
            "ticket_code": ("code", ("[My|The] ticket [code |]is {it}.", "Ticket {it}.")),
        },
        {
            "event": {
                "concert": ("[I love|We hear] the band.", "When does the [singer|band] play?"),
                "theatre": ("Who plays Hamlet?", "Is the play in English?"),
                "football": ("Who is in goal?", "Does our team play at home?"),
                "circus": ("Are there clowns?", "My children love [clowns|acrobats]."),
            },
            "contact": CONTACT,
        },
    ),
    Topic(
        "Housing",
        {
            "tenant": WRITER,
            "flat": ("code", ("[My|The] flat is {it}.", "I live in flat {it}.", "Flat {it}.")),
            "town": ("town", ("The house is in {it}.", "[It stands|It lies] in {it}.")),
            "rent": ("small", ("The rent is {it}.", "I pay {it} a week.")),
        },
        {
            "trouble": {
                "heating": ("The heating [is off|does not work].", "It is cold in here."),
                "water": ("[Water|It] drips from the ceiling.", "There is no warm water."),
                "keys": ("I lost [my|the] keys.", "The lock [is stuck|will not open]."),
                "mould": ("There is mould on the wall.", "The wall [is black|smells bad]."),
                "lift": ("The lift [is stuck|stands still].", "I must take the stairs."),
            },
            "mood": MOOD,
        },
    ),
)

OPENINGS = (
    "[Hello|Hi|Hey|Dear all|Dear team|Good day|Good morning|Good evening],",
    "[Hello|Hi] [there|everybody],",
    "[Sorry to ask|I have a question|Just a note|One thing|Please read this].",
    "[Can|Could] [you|someone] help[ me|]?",
)
CLOSINGS = (
    "[Thanks|Thank you|Bye|Cheers|Many thanks].",
    "[Thanks|Regards|Yours|Best|Kind regards|Best wishes], {name}",
    "[See you|Until soon|Have a nice day|Please answer].",
    "{name}",
)
ASIDES = (
    "I am {small} years old.",
    "It [cost|was] {small} [euros|pounds|dollars].",
    "The weather is [nice|bad] today.",
    "[I|We] waited {small} [days|weeks|hours].",
    "I [read|saw|heard] it {small} [days|weeks] ago.",
    "My [friend|sister|boss|neighbour] told me.",
    "We have a {colour} {thing}.",
    "I was in a hurry.",
    "[I know|I think] you are busy.",
)
