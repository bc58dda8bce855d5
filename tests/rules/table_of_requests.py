"""Rules that look at hosts, methods, fields, queries, cookies, addresses and maps; and shares."""

from __future__ import annotations

from tests.rules.scenario import Scenario, routes

SCENARIOS = {
    "hosts": Scenario(
        routes(
            'shop: host = ["shop.example", "store.example"]',
            'api: host = "*.shop.example"',
            'admin: host = "[::1]"',
            'other: host = "192.0.2.80"',
        ),
        """
        GET shop.example/               => shop
        GET SHOP.Example/               => shop
        GET shop.example./              => shop
        GET shop.example:8080/          => shop
        GET shop.example.:80/           => shop
        GET store.example/              => shop
        GET api.shop.example/           => api
        GET v1.api.shop.example/        => api
        GET notshop.example/            => site
        GET .shop.example/              => api
        GET shop.example.org/           => site
        GET [::1]/                      => admin
        GET [::1]:8080/                 => admin
        GET 192.0.2.80:8080/            => other
        GET example/                    => site
        """,
    ),
    "methods": Scenario(
        routes(
            'api: method = ["POST", "PUT"]', 'admin: method = "PURGE"', 'shop: path = "/s", method = "GET"'
        ),
        """
        POST a/                         => api
        PUT a/                          => api
        post a/                         => site
        PURGE a/                        => admin
        GET a/s                         => shop
        HEAD a/s                        => site
        DELETE a/                       => site
        """,
    ),
    "fields": Scenario(
        routes(
            "admin: header = { X-Debug = true }",
            'api: header = { X-Version = ["2", "3"], Accept = { prefix = "application/" } }',
            'shop: header = { User-Agent = { contains = ["bot", "spider"] } }',
            'canary: header = { X-Build = { regex = "^v[0-9]+$" } }',
            'other: header = { X-File = { suffix = ".tar" } }',
        ),
        """
        GET a/ | X-Debug: 0                                     => admin
        GET a/ | x-debug:                                       => admin
        GET a/ | X_Debug: 1                                     => admin
        GET a/ | X-Debugging: 1                                 => site
        GET a/ | X-Version: 2 | Accept: application/json        => api
        GET a/ | X-Version: 4 | Accept: application/json        => site
        GET a/ | X-Version: 2 | Accept: text/html               => site
        GET a/ | X-Version: 2                                   => site
        GET a/ | X-Version: 1 | X-Version: 3 | Accept: application/x => api
        GET a/ | X-Version: 1 | X_Version: 3 | Accept: application/x => api
        GET a/ | User-Agent: a bot of mine                      => shop
        GET a/ | User-Agent: robot, spider                      => shop
        GET a/ | User-Agent: Bot                                => site
        GET a/ | X-Build: v12                                   => canary
        GET a/ | X-Build: v12b                                  => site
        GET a/ | X-Build: x | X-Build: v1                       => canary
        GET a/ | X-File: a.tar                                  => other
        GET a/ | X-File: a.tar.gz                               => site
        GET a/ | X-Forwarded-For: 1.2.3.4                       => site
        """,
    ),
    "fields that only a proxy may send": Scenario(
        routes(
            "admin: header = { X-Forwarded-For = true }",
            "api: header = { X-Client-Cert-Subject = true }",
            "shop: header = { x_forwarded_host = true }",
        ),
        """
        GET a/ | X-Forwarded-For: 10.0.0.1                      => site
        GET a/ | X_Forwarded_For: 10.0.0.1                      => site
        GET a/ | X-Client-Cert-Subject: CN=root                 => site
        GET a/ | X-Forwarded-Host: a                            => site
        """,
    ),
    "query": Scenario(
        routes(
            "admin: query = { debug = true }",
            'api: query = { v = ["2", "3"], kind = { prefix = "x" } }',
            'shop: query = { "a b" = "c&d" }',
        ),
        """
        GET a/?debug                    => admin
        GET a/?x=1&debug=0              => admin
        GET a/?%64ebug=0                => admin
        GET a/?debugger=1               => site
        GET a/?x=debug                  => site
        GET a/?v=2&kind=xyz             => api
        GET a/?v=1&v=3&kind=x           => api
        GET a/?v=1&kind=y&kind=x&v=2    => api
        GET a/?v=1&kind=x               => site
        GET a/?v=2                      => site
        GET a/?a%20b=c%26d              => shop
        GET a/?a+b=c%26d                => shop
        GET a/?a+b=c&d                  => site
        """,
    ),
    "cookies": Scenario(
        routes("canary: cookie = { beta = true }", 'api: cookie = { plan = ["gold", "silver"] }'),
        """
        GET a/ | Cookie: beta=1                                 => canary
        GET a/ | Cookie: x=1; beta=                             => canary
        GET a/ | Cookie: xbeta=1                                => site
        GET a/ | Cookie: x=beta                                 => site
        GET a/ | Cookie: plan=gold                              => api
        GET a/ | Cookie: plan="gold"                            => api
        GET a/ | Cookie: plan=bronze; plan=silver               => api
        GET a/ | Cookie: plan=bronze | Cookie: plan=silver      => api
        GET a/ | Cookie: plan=Gold                              => site
        GET a/ | Cookie: plan = gold                            => api
        """,
    ),
    "source": Scenario(
        routes(
            'admin: source = ["10.0.0.0/8", "2001:db8::/32"]',
            'api: not = { source = "192.0.2.0/24" }, path = "/api"',
        ),
        """
        GET a/ | X-Forwarded-For: 10.1.2.3                      => admin
        GET a/ | X-Forwarded-For: 11.1.2.3                      => site
        GET a/ | X-Forwarded-For: 2001:db8::7                   => admin
        GET a/ | X-Forwarded-For: ::ffff:10.1.2.3               => admin
        GET a/ | X-Forwarded-For: [2001:db8::7]:443             => admin
        GET a/ | X-Forwarded-For: 10.1.2.3:443                  => admin
        GET a/ | X-Forwarded-For: 10.1.2.3, 11.1.2.3            => site
        GET a/ | X-Forwarded-For: 10.1.2.3 | X-Forwarded-For: 11.1.2.3 => site
        GET a/ | X-Forwarded-For: 11.1.2.3, 10.1.2.3, 127.0.0.1 => admin
        GET a/ | X-Forwarded-For: 10.1.2.3, unknown             => site
        GET a/                                                  => site
        GET a/api                                               => api
        GET a/api | X-Forwarded-For: 192.0.2.7                  => site
        GET a/api | X-Forwarded-For: 198.51.100.7               => api
        """,
        keys={"trusted_proxies": ["127.0.0.1"]},
    ),
    "not, any, all": Scenario(
        routes(
            'admin: path = "/secret", not = { header = { X-Token = "s3" } }',
            'api: any = [{ path = "/api" }, { header = { X-Api = true } }], method = "GET"',
            'shop: all = [{ query = { a = "1" } }, { not.any = [{ method = "POST" }, { path = "/no" }] }]',
        ),
        """
        GET a/secret                                            => admin
        GET a/secret | X-Token: s2                              => admin
        GET a/secret | X-Token: s3                              => site
        GET a/secret | X-Token: s2 | X-Token: s3                => site
        GET a/api/x                                             => api
        GET a/ | X-Api: 1                                       => api
        POST a/api                                              => site
        GET a/?a=1                                              => shop
        GET a/no?a=1                                            => site
        POST a/?a=1                                             => site
        """,
    ),
    "maps": Scenario(
        '[[rule]]\nmatch = { map = "denied" }\nbackend = "admin"\n'
        '[[rule]]\nmatch = { map = { plans = "gold" } }\nbackend = "canary"\n'
        '[[rule]]\nmatch = { map = "tenants" }\nbackend = "{map.tenants}"\n'
        '[[rule]]\nmatch = { map = "areas" }\nbackend = "{map.areas}"\n',
        """
        GET a/ | X-Forwarded-For: 10.1.2.3                      => admin
        GET a/ | X-Forwarded-For: 10.9.2.3                      => site
        GET a/ | X-Forwarded-For: 2001:db8::1                   => admin
        GET a/ | X-Forwarded-For: 2001:db9::1                   => site
        GET a/ | Cookie: id=u1                                  => canary
        GET a/ | Cookie: id=u2                                  => site
        GET a/ | Cookie: id=u3                                  => site
        GET shop.example/                                       => shop
        GET Www.Shop.Example:80/                                => shop
        GET example/                                            => site
        GET x.tenants.example/                                  => api
        GET tenants.example/                                    => site
        GET ghost.example/                                      => site
        GET a/files/a/b                                         => other
        GET a/files/app/x                                       => app-a
        GET a/%66iles/app                                       => app-a
        GET a/filesystem                                        => site
        GET a/below/x                                           => app-b
        GET a/below                                             => site
        GET a/x%2ffiles                                         => 400
        """,
        keys={"trusted_proxies": ["127.0.0.1"]},
        maps={
            "denied:network": "# who is not let in\n10.0.0.0/13\n10.1.2.3/32 x\n2001:db8::/32\n",
            "plans:exact:{cookie.id}": "u1 gold\nu2 silver\n\nu1 silver\n",
            "tenants:domain": "shop.example   shop  \n*.tenants.example\tapi\nghost.example nobody\n",
            "areas:prefix": "/files other\n/files/app app-a\n/below/ app-b\n",
        },
    ),
    "shares": Scenario(
        '[[rule]]\nmatch = { path = "/none" }\nsplit = { canary = 0, api = 1 }\n'
        '[[rule]]\nmatch = { path = "/cookie" }\nsplit = { shop = 1, other = 1 }\nsplit_by = "cookie:id"\n'
        '[[rule]]\nmatch = { path = "/field" }\nsplit = { shop = 1, other = 1 }\nsplit_by = "header:X-Id"\n',
        """
        GET a/none                                              => api
        GET a/cookie | Cookie: id=a                             => shop
        GET a/cookie/x | Cookie: id=a                           => shop
        GET a/cookie | Cookie: id=c                             => other
        GET a/field | X-Id: a                                   => shop
        GET a/field | x_id: c                                   => other
        """,
    ),
}
