"""Words and values the pretraining texts are made of."""

from random import Random


def listed(text: str) -> list[str]:
    """The words of a text that is a list of them."""
    return text.split()


NAMES = listed(
    "Anna Ben Carla David Elena Farid Grace Hugo Ines James Karin Liam Maria Nora Omar Paula Ravi "
    "Tom Uma Victor Wendy Yusuf Zoe Alice Bruno Clara Daniel Emma Felix Gina Henry Ida Jonas Kate "
    "Leo Mia Nick Olga Peter Rosa Sam Tina Walter Lena Mark Julia Simon Eva Oscar Ruth Paul Laura"
)

TOWNS = (
    *listed(
        "Leeds Bristol Oxford Glasgow Dublin Cardiff London Manchester Exeter Paris Lyon Madrid "
        "Berlin Munich Vienna Zurich Geneva Milan Rome Lisbon Porto Brussels Amsterdam Oslo "
        "Stockholm Helsinki Prague Warsaw Boston Chicago Denver Seattle Austin Toronto Sydney "
        "Hamburg Bremen Cologne Stuttgart Leipzig Basel Antwerp Rotterdam Marseille Bordeaux "
        "Valencia Seville Naples Turin Athens Istanbul Budapest Bucharest Zagreb Riga Vilnius "
        "Gdansk Krakow Malmo Bergen Liverpool Belfast Houston Dallas Atlanta Memphis Montreal "
        "Shanghai Singapore Dubai Tokyo Osaka Seoul Delhi Mumbai Cairo Nairobi Lagos Lima Quito "
        "Havana Miami Phoenix Portland Detroit Perth Brisbane Auckland Wellington Tallinn Ghent "
        "Utrecht Delft Bonn Dresden Salzburg Graz Venice Genoa Verona Bilbao Malaga Granada Nantes "
        "Lille Reims Dijon Bath Derby Norwich Plymouth Dover Durham Cork Galway Aarhus Uppsala"
    ),
    "New York", "Cape Town", "San Diego", "Hong Kong", "Tel Aviv", "Los Angeles", "Buenos Aires",
    "New Haven", "Santa Fe", "Port Louis",
)  # fmt: skip

THINGS = listed(
    "shoes jacket lamp headphones kettle chair coat blender backpack watch carpet mirror table book "
    "shirt hat bag phone camera clock cup plate bottle spoon knife fork bed sofa door window key "
    "pallets boxes crates machine pipes tiles tyres containers furniture barrels bicycle car bus "
    "train ship truck plane ticket letter paper pen pencil card coin ring radio guitar piano drum "
    "ball rope ladder hammer nail saw bucket brush soap towel pillow blanket curtain candle basket"
)

COLOURS = listed("red blue green yellow black white brown grey pink orange purple silver")
DAYS = listed("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
MONTHS = listed("January March April May June July August October November December")

SENTENCES = (
    "[I|We|They|You] [want|need|have|would like|hope|try] to [buy|sell|send|open|close|find|move|"
    "change|cancel|return|pay|check|repair|bring|take|book|order|download|update|receive] "
    "[the|a|my|our|your|this|that] {thing}.",
    "[The|My|Our|Your|This] {thing} [is|was] [old|new|late|broken|damaged|missing|wrong|small|big|"
    "heavy|open|closed|wet|lost|free|ready|expensive|cheap|nice|strange|empty|full].",
    "[Where|When|How|Why] [can|could|do|does|will|did] [I|we|you|they|it] [find|send|get|move|see|"
    "reach|start|stop|pay|deliver|collect|return] [the|a|my|our|your] {thing}?",
    "[Please|Kindly] [send|give|show|bring|tell|open|close|check|move|change|stop|update|correct] "
    "[me|us|them|it] [the|a|my|our|another|a different] {thing}.",
    "{name} [lives|works|stays|waits|was born] in {town}.",
    "{name} [goes|travels|drives|flies|moves] [from {town}|by car|by train] to {town}.",
    "[It|This|That] [is|was|will be] [not |very |really |][good|bad|urgent|important|easy|possible|"
    "fine|late|early|enough|sad|clear|far away].",
    "[There is|There was|I see|We found] [a|one|no|another] {thing} [in|on|under|behind|near|at] "
    "[the|my|our] [house|office|box|street|garden|kitchen|car|port|station|depot|truck|road].",
    "[Today|Tomorrow|Yesterday|This week|Next month|On {day}|By {day}|In a few days|Right now|"
    "As soon as possible|At the weekend] [I|we|they|you] [will|must|can|cannot|should] [come|go|"
    "wait|answer|call|write|hurry|leave|work|rest|help|ask|reply|pay].",
    "The {thing} [costs|weighs|is worth] {small} [euros|pounds|dollars|kg|tonnes].",
    "[I am|We are|They are|She is|He is] [still |][waiting for|looking for|happy with|talking about|"
    "asking for|missing|using] [the|a|my|our] {thing}[ in {town}|].",
    "{small} [days|weeks|years|hours|minutes] [ago|later] [I|we|they] [bought|sold|lost|found|"
    "ordered|broke|received|sent|got|paid|called] [a|the] {colour} {thing}.",
    "[Nobody|No one|Someone|Everyone] [knows|said|thinks|asked] [where|when|why] the {thing} "
    "[is|was|went|arrived|disappeared|comes from].",
    "[What|How much] [is|was|does] the [price|address|status|date|time|number|weight|colour|size] "
    "[of|for] the {thing}[ cost|]?",
    "[If|When|Because] [it|the {thing}] [arrives|is late|does not fit|is broken|costs too much], "
    "[I|we] [will|can] [call|write|wait|send it back|buy another one|be sad|ask again].",
    "[Thank you|Thanks|Many thanks|Best regards|Kind regards|Cheers][ for your help| in advance|].",
)  # fmt: skip

FIELD_NAMES = listed(
    "name age town colour item price day month time size weight height phone email street floor "
    "room seat row gate track code key owner author title year pages speed brand model fuel rent "
    "area level score team coach rank course grade school teacher doctor nurse patient dose guest "
    "host menu table drink dish cook hotel beach river lake mountain island country capital money "
    "tax salary job boss office branch account card bank loan sender receiver box_number "
    "room_number phone_number first_name last_name start_date end_date home_town car_type "
    "file_size ticket_price flight_code shoe_size pet_name zip_code map_page due_date"
)

COMMON_WORDS = listed(
    "able about above accept account across act action add address advance afraid after "
    "afternoon again ago agree air all allow almost alone along already also always amount "
    "angry animal another answer any appear apple area arm arrange arrive art ask attach "
    "author available away baby back bad bank base basic be beautiful because become before "
    "begin behind believe below best better between bill blank block blood board boat body "
    "bottom box boy branch break bridge bright bring broken brother brown build burn business "
    "busy buy call calm cancel cancellation care careful carry case catch cause cent center "
    "central certain chain chance change charge cheap cheaper check choice choose circle city "
    "claim class clean clear clearance client climb close code coffee cold collect collection "
    "college colour column come common company compare complete concern confirm connect "
    "consignment contact contain content continue control cook cool copy corner correct cost "
    "count country couple course court cover crack create crushed current custom customer "
    "customs cut daily damage damaged dark data date dead deal dear decide deep defective "
    "degree delay delayed deliver delivered delivery dent depend depot describe desert design "
    "desk destination detail device different difficult dinner direct dirty disappear "
    "discount discuss distance divide document documents dollar double doubt down download "
    "draw dream dress drink drive driver drop dry during duty early earn earth east easy eat "
    "edge effect egg eight either electric else elsewhere email empty end enemy engine "
    "english enjoy enough enter entry equal error europe even evening event ever every "
    "everything exact example except excuse exempt expect expensive explain express extra eye "
    "face fact fail fair fall false family famous farm fast faulty favour fear feel few field "
    "fight file fill film final find fine finger finish fire first fish fit five flat float "
    "floor flower fly follow food foot force foreign forest forget forgive form forward four "
    "free freight fresh friday friend from front fruit full fun future game garden gas gate "
    "general gentle gift girl give glad glass goal going gold good goods government great "
    "green greet ground group grow guess guide hair half hand happen happy harbour hard hat "
    "hate have head health hear heart heat heavy help here high history hold hole holiday "
    "home hope horse hospital hour house how human hundred hungry hurry hurt ice idea image "
    "immediately import important improve inch include increase industry inside instead "
    "intent interest invoice iron island issue item join joke judge jump just keep kind king "
    "kitchen know label lake land language large last late latest laugh law lead learn least "
    "leather leave left leg legal leisure lend length less lesson letter level library "
    "licence lie life lift light like limit line list listen little live load local locate "
    "lock long look lose lost lot loud love low lower loyal luck lunch main make man many map "
    "mark market master match material matter meal mean measure meat medicine medium meet "
    "member memory message metal method middle might mind minute mirror miss missing mistake "
    "mix model modern moment money month moon more morning most mother mountain mouth move "
    "movement much music must name narrow nation natural near necessary need never new news "
    "next nice night nine noise none normal north nose note nothing notice now number object "
    "occur ocean offer office often oil old once one only open operate opposite order "
    "ordinary original other outside over overdue owe own package page paid pain paint pair "
    "pallet paper parcel parent park part party pass past path patient pattern pay payment "
    "peace people perhaps period permanent person phone photo pick pickup picture piece place "
    "plain plan plane plant play please plenty point police poor port position possible post "
    "postpone pound power present press pressing pretty price print prison private problem "
    "process product program promise proof proper protect prove public pull purchase purple "
    "purpose push put quality quarter queen question quick quiet quite quotation quote race "
    "rail rain raise rate rather reach read ready real reason receipt receive recipient "
    "record reference refund refuse regard regards regular relation remain remember rent "
    "repair repeat reply report request reschedule rest result retail return rich ride right "
    "ring rise risk river road rock room root rope rough round row rude rule run rush sad "
    "safe sail sale salt same sand save say scale school science score scratch scratched sea "
    "search season seat second secret section see seed seem sell send sense sentence separate "
    "serious serve service settle seven several shade shake shape share sharp sheet ship "
    "shipment shipping shirt shop short should shoulder show shut sick side sign signal "
    "signature signed silver similar simple since sing sir sister sit site six size skill "
    "skin sky sleep slip slot slow small smell smile smooth snow soft soil soldier some song "
    "soon sorry sort sound south space speak special speed spell spend spoon spot spring "
    "square stage stamp stand star start state statement station status stay steal steel step "
    "stick still stock stolen stone stop store storm story straight strange street stretch "
    "strong structure student study subject success such sudden sugar suggest suit summer sun "
    "supply support sure surface surprise sweet swim system table take talk tall tariff taste "
    "tax teach team tear tell ten terms test than thanks thick thief thin thing think third "
    "thousand three through throw time tired today together tomorrow tonight tooth top torn "
    "total touch town toy trace track tracking trade train transport travel tree trip trouble "
    "truck true trust try turn twice two type ugly under understand union unit unload until "
    "up update upper urgency urgent use usual valley value vanished various vehicle very view "
    "village visit voice wait waiting walk wall want war warehouse warm warranty wash waste "
    "water way waybill weak wear weather week weekend weight welcome well west wet wheel when "
    "where while white whole why wide wife wild will win wind window wine winter wire wise "
    "wish woman wonder wood word work world worry worth write wrong year yellow yesterday yet "
    "young zero"
)

CONSONANTS = "bcdfghjklmnprstvwz"
VOWELS = "aeiou"


def made_up_word(rng: Random) -> str:
    """A word that means nothing, to be copied letter by letter: "zarol"."""
    syllables = rng.randint(2, 3)
    word = "".join(rng.choice(CONSONANTS) + rng.choice(VOWELS) for _ in range(syllables))
    return word + rng.choice(["", rng.choice(CONSONANTS)])


def digits(rng: Random, length: int) -> str:
    """A number of so many digits, the first of them not 0."""
    return str(rng.randrange(10 ** (length - 1), 10**length))


def code(rng: Random) -> str:
    """A number such as things are filed under: 4827, 193-448, KB2048, Q7-31."""
    letters = "".join(
        rng.choice("ABCDEFGHJKLMNPQRSTUVWXZ") for _ in range(rng.choice([1, 2, 2, 3]))
    )
    shape = rng.random()
    if shape < 0.55:
        return digits(rng, rng.choice([3, 4, 5, 5, 6, 6, 6, 7, 8]))
    if shape < 0.85:
        return letters + digits(rng, rng.choice([2, 3, 4, 5, 6, 6]))
    if shape < 0.93:
        return f"{letters}-{digits(rng, rng.choice([3, 4, 5]))}"
    return f"{digits(rng, 3)}-{digits(rng, 3)}"


def value(kind: str, rng: Random) -> str:
    """A random value for a slot of that name."""
    match kind:
        case "name":
            return rng.choice(NAMES)
        case "town" | "origin":
            return rng.choice(TOWNS)
        case "thing":
            return rng.choice(THINGS)
        case "colour":
            return rng.choice(COLOURS)
        case "day":
            return rng.choice(DAYS)
        case "date":
            return f"{rng.randint(1, 28)} {rng.choice(MONTHS)}"
        case "time":
            return f"{rng.randint(6, 22)}:{rng.choice(['00', '15', '30', '45'])}"
        case "small":
            return str(rng.randrange(2, 100))
        case "code":
            return code(rng)
        case "word":
            return made_up_word(rng) if rng.random() < 0.5 else rng.choice(COMMON_WORDS)
    raise ValueError(f"no values of kind {kind!r}")
